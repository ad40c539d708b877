package cleaner

import (
	"bytes"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// An account is a line of passwd(5).
type account struct {
	name        string
	uid, gid    int
	home, shell string
}

// maxAccounts bounds what is held of them; a directory service has more, but not in
// /etc/passwd.
const maxAccounts = 1 << 16

// parsePasswd reads passwd(5). Lines that are none, such as comments and those of NIS,
// are left out.
func parsePasswd(text []byte) ([]account, error) {
	var all []account
	for line := range bytes.Lines(text) {
		f := strings.Split(strings.TrimRight(string(line), "\r\n"), ":")
		if len(f) != 7 || f[0] == "" || strings.ContainsAny(f[0][:1], "+-#") {
			continue
		}
		uid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(f[3], 10, 32)
		if err != nil {
			continue
		}
		if len(all) == maxAccounts {
			return nil, disk.Errorf(disk.TooLarge, "has more than %d accounts", maxAccounts)
		}
		all = append(all, account{name: f[0], uid: int(uid), gid: int(gid), home: f[5], shell: f[6]})
	}
	return all, nil
}

func (g *Guest) readAccounts() ([]account, error) {
	text, ok, err := g.read("/etc/passwd")
	if err != nil || !ok {
		return nil, err
	}
	all, err := parsePasswd(text)
	return all, pathError("/etc/passwd", err)
}

// uidRange is that of people's accounts, from login.defs(5). Without it 1000 to 60000,
// which shadow(8) takes, or from 500 in Red Hat's of before 7.
func (g *Guest) uidRange() (first, last int, err error) {
	first, last = 1000, 60000
	if v := g.report.OS; (v.ID == "centos" || v.ID == "rhel") && slices.Contains([]string{"3", "4", "5", "6"}, strings.SplitN(v.Version, ".", 2)[0]) {
		first = 500
	}
	text, ok, err := g.read("/etc/login.defs")
	if err != nil || !ok {
		return first, last, err
	}
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		n, err := strconv.Atoi(f[1])
		if err != nil || n <= 0 {
			continue
		}
		switch f[0] {
		case "UID_MIN":
			first = n
		case "UID_MAX":
			last = n
		}
	}
	if first < 100 || last < first { // 1 to 99 are the system's, whatever login.defs says
		return 0, 0, pathError("/etc/login.defs", disk.Errorf(disk.Malformed, "people have the user ids %d to %d: that cannot be", first, last))
	}
	return first, last, nil
}

// chooseUsers decides which accounts go: those of people that nobody wants to keep.
func (g *Guest) chooseUsers() error {
	for _, name := range g.opt.KeepUsers {
		if !slices.ContainsFunc(g.accounts, func(a account) bool { return a.name == name }) {
			g.warn("the user %s, who is to be kept, is not there", name)
		}
	}
	if !g.asked("users") {
		return nil
	}
	first, last, err := g.uidRange()
	if err != nil {
		return err
	}
	for _, a := range g.accounts {
		if a.uid >= first && a.uid <= last && a.name != "nobody" && !slices.Contains(g.opt.KeepUsers, a.name) {
			g.removed[a.name] = true
			g.report.Users = append(g.report.Users, a.name)
		}
	}
	return nil
}

// kept are the accounts that stay after the run.
func (g *Guest) kept() []account {
	return slices.DeleteFunc(slices.Clone(g.accounts), func(a account) bool { return g.removed[a.name] })
}

// named finds an account that stays.
func (g *Guest) named(name string) (account, bool) {
	all := g.kept()
	i := slices.IndexFunc(all, func(a account) bool { return a.name == name })
	if i < 0 {
		return account{}, false
	}
	return all[i], true
}

// protected tells whether a kept account's own files are to stay as they are.
func (g *Guest) protected(name string) bool { return slices.Contains(g.opt.KeepUsers, name) }

// homes are the home folders of all accounts that are there still, and /root, /etc/skel
// and what lies in /home: the places where programs leave what they know of a person.
// They are where they really lie, each once.
func (g *Guest) homes() ([]string, error) {
	paths, err := g.glob("/home/*")
	if err != nil {
		return nil, err
	}
	paths = append(paths, "/root", "/etc/skel")
	for _, a := range g.accounts {
		if path.IsAbs(a.home) && len(a.home) < unix.PathMax {
			paths = append(paths, a.home)
		}
	}
	var homes []string
	for _, p := range paths {
		if n, ok, err := g.lookup(p, true); err != nil {
			return nil, err
		} else if ok && n.folder() {
			homes = append(homes, n.path)
		}
	}
	slices.Sort(homes)
	return slices.Compact(homes), nil
}

// inHomes are patterns below every home, as glob takes them, but for those that match
// nothing there by their first part: homes have few names, and there are many patterns.
func (g *Guest) inHomes(names ...string) ([]string, error) {
	homes, err := g.homes()
	if err != nil {
		return nil, err
	}
	var all []string
	for _, home := range homes {
		there, err := g.names(home)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			first, _, _ := strings.Cut(name, "/")
			if home != "/root" && ofSystem(home) && name[0] != '.' {
				continue // services have "/" or /usr/bin for a home, with /snap and /usr/bin/snap
			}
			if slices.ContainsFunc(there, func(n string) bool { ok, _ := path.Match(first, n); return ok }) {
				all = append(all, path.Join(literally(home), name))
			}
		}
	}
	return all, nil
}

var wild = regexp.MustCompile(`[*?\[\\]`)

// literally is the pattern that matches a path and no other.
func literally(p string) string { return wild.ReplaceAllString(p, `\$0`) }

// field changes one field of the lines of a file like passwd(5) whose first field is
// among those that pick chooses.
func field(n int, pick func(name string) bool, change func(old string) string) func([]byte) []byte {
	return func(text []byte) []byte {
		return eachLine(text, func(line []byte) []byte {
			body := strings.TrimRight(string(line), "\r\n")
			f := strings.Split(body, ":")
			if len(f) <= n || !pick(f[0]) {
				return line
			}
			f[n] = change(f[n])
			return append([]byte(strings.Join(f, ":")), line[len(body):]...)
		})
	}
}
