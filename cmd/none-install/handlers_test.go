package main

import (
	"strings"
	"testing"
)

func TestHandlers(t *testing.T) {
	h := handlers{}
	for _, value := range []string{"airgap", "airgap-gvisor=gvisor", "airgap-kata-qemu=kata-qemu"} {
		if err := h.Set(value); err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
	if got := h.String(); got != "airgap, airgap-gvisor=gvisor, airgap-kata-qemu=kata-qemu" {
		t.Errorf("they are %s", got)
	}
	for _, value := range []string{"", "runc", "airgapx", "airgap-", "airgap=", "airgap-A=b", "airgap-" + strings.Repeat("a", 43), "airgap-a.b=c"} {
		if err := h.Set(value); err == nil {
			t.Errorf("%q is taken", value)
		}
	}
}

func TestWanted(t *testing.T) {
	st := &state{Handlers: handlers{"airgap": "", "airgap-gvisor": "gvisor"}}
	for _, c := range []struct {
		in            installer
		st            *state
		want, dropped string
	}{
		{installer{}, nil, "airgap", ""},
		{installer{}, st, "airgap, airgap-gvisor=gvisor", ""},
		{installer{baseHandler: "kata"}, nil, "airgap-kata=kata", ""},
		{installer{baseHandler: "kata"}, st, "airgap, airgap-gvisor=gvisor, airgap-kata=kata", ""},
		{installer{handlers: handlers{"airgap": ""}}, st, "airgap", "airgap-gvisor"},
		{installer{handlers: handlers{"airgap-kata": "kata"}}, st, "airgap-kata=kata", "airgap airgap-gvisor"},
	} {
		got := c.in.wanted(c.st)
		if got.String() != c.want {
			t.Errorf("%+v: %s, want %s", c.in, got, c.want)
		}
		if c.st != nil {
			if d := strings.Join(c.st.dropped(got), " "); d != c.dropped {
				t.Errorf("%+v drops %s, want %s", c.in, d, c.dropped)
			}
		}
	}
	if st.Handlers.String() != "airgap, airgap-gvisor=gvisor" {
		t.Errorf("asking changed the state: %s", st.Handlers)
	}
}
