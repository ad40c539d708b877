package cleaner

import (
	"bytes"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// users removes the accounts of people, and every place that names them.
func users(g *Guest) error {
	if len(g.removed) == 0 {
		return nil
	}
	for _, step := range []func(*Guest) error{userHomes, userFiles, userLines, userGroups} {
		if err := step(g); err != nil {
			return err
		}
	}
	return nil
}

// userHomes removes home folders, wherever they are. A home that is the system's or
// somebody else's too, by mistake or malice, stays and is told of.
func userHomes(g *Guest) error {
	for _, a := range g.accounts {
		if !g.removed[a.name] || !strings.HasPrefix(a.home, "/") {
			continue
		}
		n, ok, err := g.lookup(a.home, true)
		if err != nil {
			return err
		}
		if !ok || !n.folder() {
			continue
		}
		if why := g.notAHome(a, n); why != "" {
			g.warn("the home %s of %s stays: %s", show(a.home), a.name, why)
			continue
		}
		if err := g.removePath(n.path); err != nil {
			return err
		}
		if path.Clean(a.home) != n.path { // a symlink led to it
			if err := g.removePath(path.Clean(a.home)); err != nil {
				return err
			}
		}
	}
	return nil
}

// notAHome says why a folder is not to be removed with an account; empty if it is.
func (g *Guest) notAHome(a account, n node) string {
	switch {
	case ofSystem(n.path):
		return "it is a folder of the system"
	case !within(n.path, "/home") && n.stat().Uid != uint32(a.uid):
		return "it belongs to another user"
	}
	for _, other := range g.kept() {
		if h, ok, err := g.lookup(other.home, true); err != nil || ok && within(h.path, n.path) {
			return "it is that of " + other.name + " too, or has that in it"
		}
	}
	return ""
}

// ofSystem tells whether a folder is the system's, whoever has it for a home.
func ofSystem(folder string) bool {
	parts := strings.Split(strings.Trim(folder, "/"), "/")
	system := []string{"usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "boot", "dev", "proc", "sys", "run"}
	return len(parts) < 2 || slices.Contains(system, parts[0]) || parts[0] == "var" && len(parts) < 3
}

// within tells whether a path is a folder or lies below it.
func within(p, folder string) bool {
	return p == folder || strings.HasPrefix(p, strings.TrimSuffix(folder, "/")+"/")
}

// userFiles removes what programs keep for an account by its name or number.
func userFiles(g *Guest) error {
	for _, a := range g.accounts {
		if !g.removed[a.name] || !userName.MatchString(a.name) {
			continue
		}
		uid := strconv.Itoa(a.uid)
		if err := g.remove(
			"/var/mail/"+a.name, "/var/spool/mail/"+a.name,
			"/var/spool/cron/"+a.name, "/var/spool/cron/crontabs/"+a.name, "/var/spool/cron/tabs/"+a.name,
			"/var/lib/systemd/linger/"+a.name, "/var/lib/systemd/home/"+a.name+".identity",
			"/var/lib/AccountsService/users/"+a.name, "/var/lib/AccountsService/icons/"+a.name,
			"/var/lib/sudo/lectured/"+a.name, "/var/lib/sudo/lectured/"+uid, "/var/lib/sudo/ts/"+a.name, "/var/lib/sudo/ts/"+uid,
			"/var/lib/sudo/"+a.name, "/var/db/sudo/"+a.name, "/var/db/sudo/lectured/"+a.name, "/var/db/sudo/lectured/"+uid,
			"/run/user/"+uid,
		); err != nil {
			return err
		}
	}
	return nil
}

// userLines removes the lines of the accounts. The members of groups follow.
func userLines(g *Guest) error {
	numbers := map[string]bool{}
	for _, a := range g.accounts {
		if g.removed[a.name] {
			numbers[strconv.Itoa(a.uid)] = true
		}
	}
	for _, a := range g.kept() { // a number that two accounts share
		delete(numbers, strconv.Itoa(a.uid))
	}
	first := func(line []byte) string {
		name, _, _ := bytes.Cut(line, []byte(":"))
		return string(name)
	}
	byName := dropLines(func(line []byte) bool { return g.removed[first(line)] })
	if err := g.editAll(byName, "/etc/passwd", "/etc/shadow"); err != nil {
		return err
	}
	byEither := dropLines(func(line []byte) bool { return g.removed[first(line)] || numbers[first(line)] })
	return g.editAll(byEither, "/etc/subuid", "/etc/subgid")
}

// userGroups takes the accounts out of all groups, as members and administrators, and
// removes a group that has the name of one and is nobody else's.
func userGroups(g *Guest) error {
	used := map[string]bool{} // gid of an account that stays
	for _, a := range g.kept() {
		used[strconv.Itoa(a.gid)] = true
	}
	own := map[string]bool{}
	change := func(text []byte, lists ...int) []byte {
		return eachLine(text, func(line []byte) []byte {
			body := strings.TrimRight(string(line), "\r\n")
			f := strings.Split(body, ":")
			if len(f) != 4 {
				return line
			}
			for _, n := range lists {
				f[n] = g.without(f[n])
			}
			if len(lists) == 1 && g.removed[f[0]] && !used[f[2]] && f[3] == "" {
				own[f[0]] = true
			}
			if own[f[0]] {
				return nil
			}
			return append([]byte(strings.Join(f, ":")), line[len(body):]...)
		})
	}
	// group(5) has members at its end, gshadow(5) administrators before them.
	if _, err := g.edit("/etc/group", func(text []byte) []byte { return change(text, 3) }); err != nil {
		return err
	}
	_, err := g.edit("/etc/gshadow", func(text []byte) []byte { return change(text, 2, 3) })
	return err
}

// without takes removed accounts out of a list with commas, which stays as it is if
// none is in it.
func (g *Guest) without(list string) string {
	names := strings.Split(list, ",")
	left := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return g.removed[name] })
	if len(left) == len(names) {
		return list
	}
	return strings.Join(left, ",")
}

// owned tells whether something belongs to an account that was removed.
func (g *Guest) owned(st *syscall.Stat_t) bool {
	removed := false
	for _, a := range g.accounts {
		if uint32(a.uid) == st.Uid {
			if !g.removed[a.name] {
				return false
			}
			removed = true
		}
	}
	return removed
}
