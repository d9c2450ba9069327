package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// object is a JSON object as it was written. encoding/json would take a key in
// any case and the last of several silently, and two programs that read the
// config differently are two programs with different ideas of what is safe.
type object []member

type member struct {
	key   string
	value json.RawMessage
}

const (
	// maxKeys and maxElements bound what becomes many small things in memory. A
	// network config has a dozen keys; the longest list in one is GC's, of the
	// attachments on a node, with two values each.
	maxKeys     = 1000
	maxElements = 20_000
)

// parseObject reads one JSON object and nothing after it.
func parseObject(data []byte) (object, error) {
	data = bytes.TrimSpace(data)
	switch {
	case len(data) == 0:
		return nil, errors.New("it is empty")
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		return nil, errors.New("it starts with a byte order mark: save it as UTF-8 without one")
	case data[0] != '{':
		return nil, fmt.Errorf("it starts with %q", data[0])
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	var o object
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, cut(err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, cut(err)
		}
		if len(o) == maxKeys {
			return nil, fmt.Errorf("it has more than %d keys", maxKeys)
		}
		o = append(o, member{key.(string), value})
	}
	if _, err := d.Token(); err != nil {
		return nil, cut(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows after the closing brace")
	}
	return o, nil
}

// cut says what an end of file means in the middle of an object.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it is cut off")
	}
	return err
}

// get returns the value of key, and nil where there is none or it is null. Of
// several it returns the last one, as encoding/json would.
func (o object) get(key string) json.RawMessage {
	var value json.RawMessage
	for _, m := range o {
		if m.key == key {
			value = m.value
		}
	}
	if string(value) == "null" {
		return nil
	}
	return value
}

// decode reads the value of key into v, which stays as it is where there is none.
func (o object) decode(key string, v any) error { return o.decodeAs(key, key, v) }

// decodeAs is decode for a key that an error calls by its name in the config.
func (o object) decodeAs(name, key string, v any) error {
	raw := o.get(key)
	if raw == nil {
		return nil
	}
	if bytes.Count(raw, []byte{','}) > maxElements {
		return invalidConfig(name, fmt.Sprintf("%s has more than %d elements", shorten(string(raw)), maxElements), "check what the runtime sends")
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return invalidConfig(name, fmt.Sprintf("%s is not %s", shorten(string(raw)), typeName(v)), "")
	}
	return nil
}

// decodeObject reads the value of key as an object, empty where there is none.
func (o object) decodeObject(key string) (object, error) {
	raw := o.get(key)
	if raw == nil {
		return nil, nil
	}
	value, err := parseObject(raw)
	if err != nil {
		return nil, invalidConfig(key, shorten(string(raw))+" is not an object", "")
	}
	return value, nil
}

// requireUnambiguous refuses a key of ours that stands there twice or in another
// case. The keys are named with the prefix they have inside the config.
func (o object) requireUnambiguous(prefix string, ours ...string) error {
	for _, key := range ours {
		seen := false
		for _, m := range o {
			switch {
			case m.key == key && seen:
				return invalidConfig(prefix+key, "is given twice", "keep one")
			case m.key == key:
				seen = true
			case strings.EqualFold(m.key, key):
				return invalidConfig(prefix+key, fmt.Sprintf("is written %q", m.key), "keys are case-sensitive: write "+key)
			}
		}
	}
	return nil
}

// refuseTypos refuses a key that is one edit away from one of ours: what it says
// would be ignored, and the author of the config would not notice.
func (o object) refuseTypos(ours ...string) error {
	for _, key := range ours {
		for _, m := range o {
			if m.key != key && oneEdit(strings.ToLower(m.key), strings.ToLower(key)) {
				return invalidConfig(quoteValue(m.key), "there is no such key", "write "+key+", or remove it")
			}
		}
	}
	return nil
}

// oneEdit says whether one letter more, less or other, or two neighbours the other
// way round, turn a into b.
func oneEdit(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	switch len(b) - len(a) {
	case 1:
		return a[i:] == b[i+1:]
	case 0:
		return i < len(a) && a[i+1:] == b[i+1:] ||
			i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
	}
	return false
}

func typeName(v any) string {
	switch v.(type) {
	case *bool:
		return "true or false"
	case *string:
		return "a string"
	case *[]string:
		return "a list of strings"
	default:
		return "an object of the form that the CNI spec has for it"
	}
}
