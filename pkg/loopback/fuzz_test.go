package loopback

import (
	"bufio"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzAnswer feeds datagrams, and what is in them to all that reads messages.
// Whatever the kernel says, there is an answer or an error, and no message is
// longer than what came.
func FuzzAnswer(f *testing.F) {
	f.Add(nlmsg(unix.NLMSG_DONE, 0, 7, 0, 0, 0, 0))
	f.Add(nlmsg(unix.NLMSG_ERROR, unix.NLM_F_DUMP_INTR, 7, errnoPayload(unix.EPERM)...))
	f.Add(nlmsg(unix.RTM_NEWNSID, 0, 7, append(make([]byte, 4), 8, 0, 1, 0, 1, 0, 0, 0)...))
	f.Add(nlmsg(unix.RTM_NEWADDR, 0, 7, addrMessage(unix.AF_INET, 8)...))
	if recordedLinks, err := os.Open(recorded); err == nil {
		defer recordedLinks.Close()
		for lines := bufio.NewScanner(recordedLinks); lines.Scan(); {
			_, text, _ := strings.Cut(lines.Text(), " ")
			if msg, err := hex.DecodeString(text); err == nil {
				f.Add(nlmsg(unix.RTM_NEWLINK, unix.NLM_F_MULTI, 7, msg...))
			}
		}
	}
	f.Fuzz(func(t *testing.T, datagram []byte) {
		a := answer{seq: 7}
		done, err := a.add(datagram)
		if done && err == nil && a.interrupted {
			t.Error("an interrupted answer passes for a whole one")
		}
		total := 0
		for _, m := range a.messages {
			total += len(m.payload)
			l, err := parseLink(m.payload)
			if err == nil && l.isFallbackTunnel() && (l.Up || l.remote || l.elsewhere) {
				t.Errorf("%+v passes for a fallback tunnel", l)
			}
			if addr, err := parseAddr(m.payload); err == nil && addr.prefix.IsValid() && !addr.prefix.Addr().IsValid() {
				t.Errorf("%+v", addr)
			}
			_, _ = parseNSID(m.payload)
		}
		if total > len(datagram) {
			t.Errorf("%d bytes of %d", total, len(datagram))
		}
	})
}
