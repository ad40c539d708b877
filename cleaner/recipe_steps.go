package cleaner

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"chromogenic/disk"
)

// addPlain are the steps that take one word.
func (s Step) addPlain(add func(bool, func() action)) {
	add(s.Delete != "", func() action {
		return action{name: "delete", paths: []string{s.Delete}, run: func(g *Guest) error { return g.remove(s.Delete) }}
	})
	add(s.Truncate != "", func() action {
		return action{name: "truncate", paths: []string{s.Truncate}, run: func(g *Guest) error { return g.truncate(s.Truncate) }}
	})
	add(s.TruncateRecursive != "", func() action {
		return action{name: "truncate-recursive", paths: []string{s.TruncateRecursive}, run: func(g *Guest) error {
			return g.walk(s.TruncateRecursive, func(e entry) error {
				if !e.regular() {
					return nil
				}
				return g.truncateEntry(e)
			})
		}}
	})
	add(s.Touch != "", func() action {
		return action{name: "touch", paths: []string{s.Touch}, run: func(g *Guest) error {
			if g.exists(s.Touch) {
				return nil
			}
			return g.write(s.Touch, nil, owner{mode: 0o644})
		}}
	})
	add(s.Hostname != "", func() action {
		return action{
			name:  "hostname",
			check: func() error { return Options{Hostname: s.Hostname}.Validate() },
			run: func(g *Guest) error {
				return g.write("/etc/hostname", []byte(s.Hostname+"\n"), owner{mode: 0o644})
			},
		}
	})
	add(s.Timezone != "", func() action {
		return action{name: "timezone", check: func() error {
			if !zoneName.MatchString(s.Timezone) {
				return fmt.Errorf("%q is no name of a zone", s.Timezone)
			}
			return nil
		}, run: func(g *Guest) error { return timezone(g, s.Timezone) }}
	})
}

// addStructured are those that take more.
func (s Step) addStructured(add func(bool, func() action)) {
	add(s.Write != nil, func() action {
		return action{name: "write", paths: []string{s.Write.Path}, mode: s.Write.Mode, run: s.Write.run}
	})
	add(s.AppendLine != nil, func() action {
		return action{name: "append-line", paths: []string{s.AppendLine.Path}, check: func() error {
			return oneLine(s.AppendLine.Line)
		}, run: s.AppendLine.run}
	})
	add(s.Replace != nil, func() action {
		return action{name: "replace", paths: []string{s.Replace.Path}, check: func() error {
			_, err := regexp.Compile("(?m)" + s.Replace.Match)
			if err == nil && s.Replace.Match == "" {
				err = errors.New("match is empty")
			}
			return err
		}, run: func(g *Guest) error {
			re := regexp.MustCompile("(?m)" + s.Replace.Match)
			return g.editAll(func(text []byte) []byte { return re.ReplaceAll(text, []byte(s.Replace.With)) }, s.Replace.Path)
		}}
	})
	add(s.DeleteBlock != nil, func() action {
		return action{name: "delete-block", paths: []string{s.DeleteBlock.Path}, check: func() error {
			return errors.Join(oneLine(s.DeleteBlock.Begin), oneLine(s.DeleteBlock.End))
		}, run: func(g *Guest) error {
			return g.editAll(dropBlock(s.DeleteBlock.Begin, s.DeleteBlock.End), s.DeleteBlock.Path)
		}}
	})
	add(s.Mkdir != nil, func() action {
		return action{name: "mkdir", paths: []string{s.Mkdir.Path}, mode: s.Mkdir.Mode, run: s.Mkdir.run}
	})
	add(s.Chmod != nil, func() action {
		return action{name: "chmod", paths: []string{s.Chmod.Path}, mode: s.Chmod.Mode, check: func() error {
			if s.Chmod.Mode == "" {
				return errors.New("mode is missing")
			}
			return nil
		}, run: s.Chmod.run}
	})
	add(s.Chown != nil, func() action {
		return action{name: "chown", paths: []string{s.Chown.Path}, run: s.Chown.run}
	})
	add(s.Link != nil, func() action {
		return action{name: "link", paths: []string{s.Link.Path}, check: func() error { return oneLine(s.Link.To) }, run: func(g *Guest) error {
			return g.link(s.Link.To, s.Link.Path)
		}}
	})
	add(s.Move != nil, func() action {
		return action{name: "move", paths: []string{s.Move.From, s.Move.To}, run: s.Move.run}
	})
	add(s.Password != nil, func() action {
		return action{name: "password", check: func() error {
			if !userName.MatchString(s.Password.User) {
				return fmt.Errorf("%q is no name of a user", s.Password.User)
			}
			return Options{RootPassword: s.Password.Hash}.Validate()
		}, run: s.Password.run}
	})
	add(s.SSHInject != nil, func() action {
		return action{name: "ssh-inject", check: func() error {
			if s.SSHInject.User != "" && !userName.MatchString(s.SSHInject.User) || !keyLine.MatchString(s.SSHInject.Key) {
				return errors.New("it takes the name of a user and a line of authorized_keys")
			}
			return nil
		}, run: func(g *Guest) error { return g.authorize(s.SSHInject.User, strings.TrimSpace(s.SSHInject.Key)) }}
	})
	add(s.Firstboot != nil, func() action {
		return action{name: "firstboot", check: func() error {
			if !bootName.MatchString(s.Firstboot.Name) || !strings.HasPrefix(s.Firstboot.Script, "#!/") {
				return errors.New("it takes a name of small letters, digits and hyphens, and a script that begins with #!/")
			}
			return nil
		}, run: s.Firstboot.run}
	})
}

func oneLine(s string) error {
	if s == "" || strings.ContainsAny(s, "\r\n\x00") {
		return fmt.Errorf("%q is not one line", s)
	}
	return nil
}

// runRecipe does the steps in order; the first that fails ends it.
func runRecipe(g *Guest) error {
	for i, s := range g.opt.Recipe.Steps {
		a, err := s.action()
		if err == nil {
			err = a.run(g)
		}
		if err != nil {
			return fmt.Errorf("step %d: %s: %w", i+1, a.name, err)
		}
	}
	return nil
}

func (s *WriteStep) run(g *Guest) error {
	as, err := g.owner(s.Owner, s.Group, s.Mode, 0o644)
	if err != nil {
		return err
	}
	return g.write(s.Path, []byte(s.Content), as)
}

func (s *LineStep) run(g *Guest) error {
	old, _, err := g.read(s.Path)
	if err != nil {
		return err
	}
	return g.write(s.Path, appendLine(s.Line)(bytes.Clone(old)), owner{mode: 0o644})
}

func (s *FolderStep) run(g *Guest) error {
	as, err := g.owner(s.Owner, s.Group, s.Mode, 0o755)
	if err != nil {
		return err
	}
	return g.mkdir(s.Path, as)
}

func (s *ModeStep) run(g *Guest) error {
	mode, err := parseMode(s.Mode, 0)
	if err != nil {
		return err
	}
	return g.attributes(s.Path, func(dir *os.Root, name string, n node) error {
		f, err := openQuiet(dir, name)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fchmod(int(f.Fd()), mode)
	})
}

func (s *OwnerStep) run(g *Guest) error {
	as, err := g.owner(s.Owner, s.Group, "", 0)
	if err != nil {
		return err
	}
	return g.attributes(s.Path, func(dir *os.Root, name string, n node) error {
		uid, gid := as.uid, as.gid
		if s.Owner == "" {
			uid = -1
		}
		if s.Group == "" {
			gid = -1
		}
		return dir.Lchown(name, uid, gid)
	})
}

// attributes changes those of what matches a pattern, of which there has to be one.
func (g *Guest) attributes(pattern string, change func(dir *os.Root, name string, n node) error) error {
	paths, err := g.glob(pattern)
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		if _, planned := g.planned[path.Clean(pattern)]; !planned {
			return pathError(pattern, iofs.ErrNotExist)
		}
		g.did(path.Clean(pattern), "changed", 1, 0)
	}
	for _, p := range paths {
		n, ok, err := g.lookup(p, true)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if !g.opt.Plan {
			g.forget(n.path)
			dir, err := g.root.OpenRoot(inRoot(path.Dir(n.path)))
			if err != nil {
				return pathError(p, err)
			}
			err = unlocked(dir, path.Base(n.path), func() error { return change(dir, path.Base(n.path), n) })
			dir.Close()
			if err != nil {
				return pathError(p, err)
			}
		}
		g.did(n.path, "changed", 1, 0)
	}
	return nil
}

func (s *MoveStep) run(g *Guest) error {
	from, ok, err := g.lookup(s.From, false)
	if err == nil && !ok {
		err = pathError(s.From, iofs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	if _, ok, err := g.lookup(s.To, false); err != nil {
		return err
	} else if ok {
		return pathError(s.To, iofs.ErrExist)
	}
	parent, ok, err := g.lookup(path.Dir(path.Clean(s.To)), true)
	if err == nil && (!ok || !parent.folder()) {
		err = pathError(path.Dir(s.To), iofs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	to := path.Join(parent.path, path.Base(s.To))
	if g.opt.Plan {
		g.gone[from.path] = true
		g.planned[to] = []byte{}
	} else if err := g.root.Rename(inRoot(from.path), inRoot(to)); err != nil {
		return pathError(s.From, err)
	}
	g.did(to, "moved", 1, 0)
	return nil
}

func (s *PasswordStep) run(g *Guest) error {
	if _, there := g.named(s.User); !there {
		return pathError("/etc/passwd", disk.Errorf(disk.NotFound, "the guest has no user %s, or not any more", s.User))
	}
	hash := s.Hash
	if hash == "" {
		hash = noPassword
	}
	_, err := g.edit("/etc/shadow", field(1, func(name string) bool { return name == s.User }, func(string) string { return hash }))
	return err
}

// timezone sets the zone as timedatectl(1) does, and Debian's file with its name.
func timezone(g *Guest, zone string) error {
	const zones = "/usr/share/zoneinfo/"
	if !g.exists(zones + zone) {
		return pathError(zones+zone, iofs.ErrNotExist)
	}
	if err := g.link("../usr/share/zoneinfo/"+zone, "/etc/localtime"); err != nil {
		return err
	}
	_, err := g.edit("/etc/timezone", func([]byte) []byte { return []byte(zone + "\n") })
	return err
}

// run keeps a script for the next boot, after which it removes itself. They run in the
// order of their names.
func (s *BootStep) run(g *Guest) error {
	if !g.systemd() {
		return disk.Hint(pathError("/etc/systemd/system", disk.Errorf(disk.Unsupported, "the guest has no systemd to run a script at its first boot")), "give the script to cloud-init as user-data")
	}
	const folder = "/var/lib/chromogenic/firstboot"
	if err := g.mkdir(folder, owner{mode: 0o700}); err != nil {
		return err
	}
	file := path.Join(folder, s.Name)
	if err := g.write(file, []byte(s.Script), owner{mode: 0o700}); err != nil {
		return err
	}
	return g.unit(unit{
		name:      "chromogenic-firstboot-" + s.Name,
		about:     "Run " + s.Name + " at the first boot of this machine",
		condition: "ConditionPathExists=" + file + "\nAfter=network-online.target\nWants=network-online.target",
		before:    "systemd-user-sessions.service",
		command:   "/bin/sh -c '" + file + "; status=$$?; rm -f " + file + "; exit $$status'",
	})
}

// owner finds out who a file of a recipe is to belong to: numbers, or names of the
// guest.
func (g *Guest) owner(user, group, mode string, instead uint32) (as owner, err error) {
	if as.mode, err = parseMode(mode, instead); err != nil {
		return as, disk.Errorf(disk.Invalid, "%w", err)
	}
	if user != "" {
		if as.uid, err = strconv.Atoi(user); err != nil {
			a, there := g.named(user)
			if !there {
				return as, pathError("/etc/passwd", disk.Errorf(disk.NotFound, "the guest has no user %s", user))
			}
			as.uid = a.uid
		}
	}
	if group == "" {
		return as, nil
	}
	if as.gid, err = strconv.Atoi(group); err == nil {
		return as, nil
	}
	text, _, err := g.read("/etc/group")
	if err != nil {
		return as, err
	}
	for line := range bytes.Lines(text) {
		f := strings.Split(strings.TrimSpace(string(line)), ":")
		if len(f) > 2 && f[0] == group {
			if as.gid, err = strconv.Atoi(f[2]); err == nil {
				return as, nil
			}
		}
	}
	return as, pathError("/etc/group", disk.Errorf(disk.NotFound, "the guest has no group %s", group))
}
