package cleaner

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// lines of a text that are not in another, in order.
func subsequence(part, whole []byte) bool {
	rest := bytes.SplitAfter(whole, []byte("\n"))
	for _, line := range bytes.SplitAfter(part, []byte("\n")) {
		for len(rest) > 0 && !bytes.Equal(bytes.TrimSuffix(rest[0], []byte("\n")), bytes.TrimSuffix(line, []byte("\n"))) {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			return len(line) == 0
		}
		rest = rest[1:]
	}
	return true
}

// Accounts that are removed are gone from every file, whatever is in them besides, and
// what stays is what was there, in order.
func FuzzAccounts(f *testing.F) {
	f.Add([]byte("root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh"), []byte("alice:$6$x:1::::::\n"), []byte("users:x:100:alice,bob\r\nalice:x:1000:\n"))
	f.Add([]byte("alice:x:99999999999:1::/:/\n:::::::\n+::::::\n#x\nalice:x:1000:1:::\n"), []byte("alice\nalice:\n"), []byte("alice:x:1000:alice,,alice\n\x00:::"))
	f.Fuzz(func(t *testing.T, passwd, shadow, group []byte) {
		g := &Guest{removed: map[string]bool{"alice": true}}
		all, err := parsePasswd(passwd)
		if err != nil {
			return
		}
		for _, a := range all {
			if a.name == "" || a.uid < 0 || a.gid < 0 || strings.ContainsAny(a.name, ":\n") {
				t.Errorf("account %+v", a)
			}
		}
		g.accounts = all
		drop := dropLines(func(line []byte) bool { return bytes.HasPrefix(line, []byte("alice:")) })
		for _, text := range [][]byte{passwd, shadow} {
			left := drop(text)
			if bytes.HasPrefix(left, []byte("alice:")) || bytes.Contains(left, []byte("\nalice:")) || !subsequence(left, text) {
				t.Errorf("left of %q is %q", text, left)
			}
		}
		for line := range bytes.Lines(group) {
			list := string(bytes.TrimSpace(line))
			left := g.without(list)
			if strings.Contains(","+left+",", ",alice,") || !strings.Contains(list, "alice") && left != list {
				t.Errorf("without alice %q is %q", list, left)
			}
		}
		once := field(1, func(string) bool { return true }, func(string) string { return "*" })
		if again := once(once(shadow)); !bytes.Equal(again, once(shadow)) {
			t.Errorf("passwords of %q are changed twice: %q", shadow, again)
		}
	})
}

// Lines that stay in fstab, hosts and sudoers are those that were there.
func FuzzLines(f *testing.F) {
	f.Add([]byte("UUID=1 / ext4 defaults 0 1\n/dev/vdb /data\\040x ext4\n"), []byte("127.0.0.1 localhost old # x\n"), []byte("old ALL=\\\n x\nDefaults:old y\n"))
	f.Add([]byte("UUID= \x00 x y\n//h/s /m cifs password=x\n"), []byte("::1 old.example.org\r\n"), []byte("## Atmosphere System\nx"))
	f.Fuzz(func(t *testing.T, fstab, hosts, sudoers []byte) {
		g := &Guest{removed: map[string]bool{"old": true}}
		left := eachLine(fstab, func(line []byte) []byte {
			if m, ok := parseMount(line); ok && g.foreign(m) {
				return nil
			}
			return line
		})
		if !subsequence(left, fstab) {
			t.Errorf("left of fstab %q is %q", fstab, left)
		}
		names := dropNames(hosts, []string{"old"})
		if !bytes.Equal(dropNames(names, []string{"old"}), names) {
			t.Errorf("left of hosts %q is %q", hosts, names)
		}
		for _, left := range [][]byte{g.dropRules(sudoers), atmosphereBlocks(sudoers), trailingRules(sudoers)} {
			if !subsequence(left, sudoers) {
				t.Errorf("left of sudoers %q is %q", sudoers, left)
			}
		}
	})
}

// What has no secrets any more is not changed again, and the number of lines stays.
func FuzzBlank(f *testing.F) {
	f.Add([]byte("export API_TOKEN=abc\n\"password\": \"x\",\nurl=https://a:b@c/\nEnvironment=\"A_SECRET=x\" B_TOKEN=y\nencrypt = \"x\"\n"))
	f.Add([]byte("{password: x, token: {secret: y}}\r\npassword=\ntoken=$X\npsk='\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, blank := range []func([]byte) []byte{blankSecrets, blankVariables, blankEncrypt} {
			once := blank(bytes.Clone(text))
			if len(once) > len(text)+2*bytes.Count(text, []byte(":")) || bytes.Count(once, []byte("\n")) != bytes.Count(text, []byte("\n")) {
				t.Errorf("%q becomes %q", text, once)
			}
		}
		if left, err := dropAuth(text); err == nil && !json.Valid(left) {
			t.Errorf("%q becomes %q", text, left)
		}
	})
}

func FuzzRecipe(f *testing.F) {
	f.Add([]byte("steps:\n- delete: /a\n- write: {path: /b, content: x}\n"))
	f.Add([]byte("steps:\n- &a {touch: /a}\n- *a\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRecipe(text)
		if err != nil {
			return
		}
		opt, err := json.Marshal(Options{Recipe: r})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readOptions(opt); err != nil {
			t.Errorf("a recipe does not come through JSON: %v\n%s", err, opt)
		}
	})
}

func FuzzOptions(f *testing.F) {
	f.Add([]byte(`{"skip":["logs"],"ssh_keys":["root:ssh-ed25519 AAAA"],"recipe":{"steps":[{"delete":"/x"}]}}`))
	f.Fuzz(func(t *testing.T, order []byte) {
		if opt, err := readOptions(order); err == nil && opt.Fingerprint() == "" {
			t.Error("no fingerprint")
		}
	})
}
