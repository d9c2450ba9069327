package loopback_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/cni-none/cni-none/pkg/loopback"
)

// A runtime brings lo up in the namespace that it made for a container.
func Example() {
	ns, err := loopback.Open("/run/netns/sandbox")
	if errors.Is(err, loopback.ErrNotExist) {
		fmt.Println("the container has ended")
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	defer ns.Close()
	survey, err := ns.Up(loopback.Exclusive)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(survey.Lo().Addrs)
	// Output: the container has ended
}

// A container looks at the namespace that it is in. No privilege is needed.
func ExampleInspectSelf() {
	survey, err := loopback.InspectSelf()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("loopback is called", survey.Lo().Name)
	// Output: loopback is called lo
}

// What an auditor says of a namespace.
func ExampleSurvey_Check() {
	survey := loopback.Survey{Links: []loopback.Link{
		{Name: "lo", Kind: "loopback", Loopback: true},
		{Name: "eth0", Kind: "veth", Up: true},
		{Name: "sit0", Kind: "sit"}, // the kernel's own, idle
	}}
	err := survey.Check(loopback.Exclusive)
	fmt.Println(err)
	var findings *loopback.Findings
	if errors.As(err, &findings) {
		for _, link := range findings.Extra {
			fmt.Println("a way out:", link)
		}
	}
	// Output:
	// interfaces beside lo: eth0 (veth); lo is down; lo lacks 127.0.0.1/8
	// a way out: eth0 (veth)
}
