package containerd

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzStrip: whatever the file is, taking the block out gives back its bytes, and
// nothing else that is in it counts as a block.
func FuzzStrip(f *testing.F) {
	for _, s := range []string{"", "a = 1", "a = 1\n", "a = 1\r\n", "\n", "\x00\xff", "# END cni-none\n", "# BEGIN cni-none\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.Contains(text, []byte("BEGIN cni-none")) {
			return // has, or nearly has, a block of its own
		}
		whole := appendBlock(text, "x = 1\n")
		rest, found, err := strip(whole)
		if err != nil || !found || !bytes.Equal(rest, text) {
			t.Fatalf("%q became %q (found %v, %v)", text, rest, found, err)
		}
		// What is added behind the block stays.
		rest, _, err = strip(append(whole, "y = 2\n"...))
		if err != nil || string(rest) != string(text)+"y = 2\n" {
			t.Fatalf("with a line behind the block, %q became %q (%v)", text, rest, err)
		}
	})
}

func TestStripRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a block without its end": blockBegin + "x = 1\n",
		"two blocks":              blockBegin + blockEnd + blockBegin + blockEnd,
	} {
		if rest, _, err := strip([]byte(text)); err == nil {
			t.Errorf("%s: became %q", name, rest)
		}
	}
}

func TestEmit(t *testing.T) {
	in := tree{"runtime_type": "io.containerd.runc.v2", "pod_annotations": []any{"a.*", `b"c`}, "n": int64(1), "b": true,
		"options": tree{"BinaryName": `C:\x`, "odd key": tree{"x": 1.5}}}
	var b strings.Builder
	if err := emit(&b, "plugins."+quoteKey(sectionV2)+".runtimes."+quoteKey(`a."b`), in); err != nil {
		t.Fatal(err)
	}
	doc, err := parse([]byte(b.String()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, &b)
	}
	if d := diff(in, at(doc, "plugins", sectionV2, "runtimes", `a."b`), func([]string) bool { return false }); d != nil {
		t.Errorf("what was written reads differently: %v\n%s", d, &b)
	}
	if err := emit(&b, "x", tree{"list": []any{tree{"a": int64(1)}}}); err == nil {
		t.Error("a list of tables was written")
	}
}

func TestDiff(t *testing.T) {
	a := tree{"same": "x", "gone": int64(1), "t": tree{"changed": true, "ignored": "1"}}
	b := tree{"same": "x", "t": tree{"changed": false, "ignored": "2"}, "new": tree{"k": "v"}}
	got := diff(a, b, func(p []string) bool { return p[len(p)-1] == "ignored" })
	want := []string{"gone: 1 became (not there)", `new.k: (not there) became "v"`, "t.changed: true became false"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q", got)
	}
}
