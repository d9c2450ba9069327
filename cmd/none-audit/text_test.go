package main

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"eth0":            "eth0",
		"wlan é日":         "wlan é日",
		"a\x1b[31mb":      `a\x1b[31mb`,
		`\x1b`:            `\\x1b`,
		"\u009b2J":        `\u009b2J`,
		"\u202etxt.exe":   `\u202etxt.exe`,
		"\xff\xfe":        `\xff\xfe`,
		"two\nlines\ttab": `two\nlines\ttab`,
		"\U000e0001":      `\U000e0001`,
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestJSONIsASCIIAndMeansTheSame(t *testing.T) {
	in := map[string]string{"k": "\u009b\u202e\x1b\x7fé\U0001f600<&>"}
	var b bytes.Buffer
	if err := writeJSON(&b, in, ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range b.Bytes()[:b.Len()-1] {
		if c < 0x20 || c > 0x7e {
			t.Fatalf("byte %#x in %q", c, b.String())
		}
	}
	var out map[string]string
	if err := json.Unmarshal(b.Bytes(), &out); err != nil || out["k"] != in["k"] {
		t.Errorf("%q came back as %q, %v", in["k"], out["k"], err)
	}
}
