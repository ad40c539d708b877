package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"chromogenic/fs"
	"chromogenic/pipeline"
	"chromogenic/providers"
)

// checkSystem looks at what the machine has for FUSE.
func checkSystem() []finding {
	findings := []finding{checkFUSE("/dev/fuse"), checkKernel()}
	if os.Geteuid() == 0 {
		return findings // root mounts without the helper, and lets in whom it wants
	}
	return append(findings, checkHelper())
}

// checkCleaning looks whether the filesystems of guests can be reached.
func checkCleaning(how pipeline.Cleaning) finding {
	ways, err := how.Ways()
	if err != nil {
		return failsBy("cleaning", err)
	}
	var works, missing, remedies []string
	for _, w := range ways {
		if w.Missing == "" {
			works = append(works, fmt.Sprintf("%s (%s)", w.Name, strings.Join(w.Filesystems, ", ")))
		} else if w.Name != "loop" { // which nobody has to have
			missing, remedies = append(missing, w.Name+": "+w.Missing), append(remedies, w.Remedy)
		}
	}
	if len(works) == 0 {
		return warns("cleaning", strings.Join(remedies, ", or "), "no guest can be cleaned: %s", strings.Join(missing, "; "))
	}
	return passes("cleaning", "guests are reached by %s", strings.Join(works, " or "))
}

// checkFUSE opens the device; that alone changes nothing.
func checkFUSE(device string) finding {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return fails("fuse", "modprobe fuse; a container needs --device "+device, "%s is not there", device)
	case err != nil:
		return fails("fuse", "", "%v", err)
	}
	f.Close()
	return passes("fuse", "%s can be opened", device)
}

// checkKernel names what an old kernel lacks.
func checkKernel() finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return failsBy("kernel", err)
	}
	return gradeKernel(unix.ByteSliceToString(u.Release[:]))
}

func gradeKernel(release string) finding {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 {
		return warns("kernel", "", "the release %q cannot be read", release)
	}
	older := func(a, b int) bool { return major < a || major == a && minor < b }
	switch {
	case older(4, 20):
		return warns("kernel", "", "%s has no copy_file_range of FUSE: instances cannot be copied into images", release)
	case older(6, 6):
		return warns("kernel", "", "%s cannot map converted views into memory: programs that need mmap fail on them", release)
	}
	return passes("kernel", "%s", release)
}

// checkHelper looks for what mounts for other users than root.
func checkHelper() finding {
	path, err := exec.LookPath("fusermount3")
	if err != nil {
		return fails("fusermount3", "install the package fuse3", "it is not installed, and only root mounts without it")
	}
	info, err := os.Stat(path)
	if err != nil {
		return failsBy("fusermount3", err)
	}
	if info.Mode()&os.ModeSetuid == 0 {
		return fails("fusermount3", "install the package fuse3 anew", "%s is not setuid root", path)
	}
	return passes("fusermount3", "%s", path)
}

// checkAllowOther tells whether users may let others in.
func checkAllowOther(path string, wanted bool) finding {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if strings.TrimSpace(lines.Text()) == "user_allow_other" {
				return passes("allow_other", "%s has user_allow_other", path)
			}
		}
		err = lines.Err()
	}
	switch {
	case err != nil && !errors.Is(err, iofs.ErrNotExist):
		return warns("allow_other", "", "%v", err) // fusermount3 may read it
	case wanted:
		return fails("allow_other", "root adds that line", "%s has no user_allow_other", path)
	}
	return passes("allow_other", "%s has no user_allow_other, which only --allow-other needs", path)
}

// checkConfiguration says which configuration it is; that it is right newMounting
// has found.
func checkConfiguration(m *mounting) []finding {
	found := passes("configuration", "%s, %d providers", m.Path, len(m.Providers))
	if m.Path == "" {
		found.Text = "none: a folder as the provider local"
	}
	findings := []finding{found}
	if os.Geteuid() != 0 {
		findings = append(findings, checkAllowOther("/etc/fuse.conf", m.AllowOther))
	}
	if len(m.kernel) > 0 {
		findings = append(findings, warns("options", "chromogenic mount --help tells ours", "left to the kernel: %s", strings.Join(m.kernel, ",")))
	}
	return findings
}

// lowSpace is the free space, in bytes, below which a spool is soon full.
const lowSpace = 1 << 30

// checkState looks at the state directory, or where it is going to be made.
func checkState(state string, spoolLimit int64) []finding {
	const check = "state"
	dir := state
	var st unix.Stat_t
	err := unix.Stat(dir, &st)
	for errors.Is(err, iofs.ErrNotExist) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		err = unix.Stat(dir, &st)
	}
	if err != nil {
		return []finding{fails(check, "say --state-dir DIR", "%s: %v", state, err)}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return []finding{fails(check, "say --state-dir DIR", "%s is not a directory", dir)}
	}
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return []finding{fails(check, "say --state-dir DIR", "%s cannot be written: %v", dir, err)}
	}
	found := passes(check, "%s", state)
	switch {
	case dir != state:
		found.Text += " will be made"
	case int(st.Uid) != os.Geteuid():
		found = warns(check, "say --state-dir DIR", "%s belongs to the user %d", dir, st.Uid)
	case st.Mode&0o077 != 0:
		found = warns(check, "chmod 700 "+dir, "%s is open to others (mode %04o), and tells the names of images", dir, st.Mode&0o7777)
	case held(filepath.Join(dir, "state.db")):
		found.Text += ", in use by another chromogenic"
	}
	return []finding{found, checkSpool(dir, spoolLimit)}
}

// held tells whether a process has the database open, by trying its lock, which
// is flock(2) in bbolt. Whoever opens it meanwhile waits longer than this takes.
func held(db string) bool {
	f, err := os.Open(db)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// checkSpool compares the scratch space with what there is; 0 is no limit.
func checkSpool(dir string, limit int64) finding {
	const check = "spool"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return failsBy(check, err)
	}
	free := st.Bavail * uint64(st.Bsize)
	text := humanize.IBytes(free) + " free"
	switch {
	case limit > 0 && free < uint64(limit):
		return warns(check, "lower spool_limit, or move state_dir", "%s, and spool_limit allows %s", text, humanize.IBytes(uint64(limit)))
	case free < lowSpace:
		return warns(check, "move state_dir", "%s: no large image can be copied in from outside", text)
	}
	return passes(check, "%s", text)
}

// checkProviders lists each provider as a mount does, without the state.
func checkProviders(ctx context.Context, m *mounting) []finding {
	p, err := m.open("", m.mountpoint, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return []finding{failsBy("providers", err)}
	}
	defer p.Close()
	var findings []finding
	for _, provider := range m.Providers {
		if found, ok := checkCredentials(ctx, p, provider); ok {
			findings = append(findings, found)
			if found.Grade == gradeFail {
				continue // nothing else of it can be asked
			}
		}
		if found, ok := checkRights(ctx, p, provider); ok {
			findings = append(findings, found)
		}
		for _, dir := range directories() {
			place := provider.place(dir)
			if place == "" {
				continue
			}
			check := provider.Name + ":" + string(dir)
			late := fails(check, "is it of a server that is gone?", "%s does not answer within %v", place, checkTime)
			findings = append(findings, within(ctx, func(ctx context.Context) finding {
				return checkListing(ctx, p, provider, dir, m.ReadOnly)
			}, late))
		}
	}
	return findings
}

// checkCredentials logs in; ok is false for a provider that needs no credentials.
func checkCredentials(ctx context.Context, p *pipeline.Pipeline, provider providerConfig) (found finding, ok bool) {
	cloud, _ := p.Provider(provider.Name)
	auth, ok := cloud.(providers.Authenticator)
	if !ok {
		return found, false
	}
	check := provider.Name + ":credentials"
	late := fails(check, "is its server gone?", "%s does not answer within %v", provider.Name, checkTime)
	return within(ctx, func(ctx context.Context) finding {
		who, source, err := auth.Credentials(ctx)
		if err != nil {
			return failsBy(check, err)
		}
		return passes(check, "%s: %s", source, who)
	}, late), true
}

// checkRights asks what the credentials allow; ok is false where a provider cannot tell.
func checkRights(ctx context.Context, p *pipeline.Pipeline, provider providerConfig) (found finding, ok bool) {
	cloud, _ := p.Provider(provider.Name)
	auditor, ok := cloud.(providers.Auditor)
	if !ok {
		return found, false
	}
	check := provider.Name + ":rights"
	late := fails(check, "is its server gone?", "%s does not answer within %v", provider.Name, checkTime)
	return within(ctx, func(ctx context.Context) finding {
		rights, err := auditor.Rights(ctx)
		if err != nil {
			return failsBy(check, err)
		}
		return gradeRights(check, rights)
	}, late), true
}

// gradeRights puts rights in words. What is not allowed is a warning: reading alone is
// of use too.
func gradeRights(check string, rights []providers.Right) finding {
	found := passes(check, "")
	var parts []string
	for _, answer := range []providers.Answer{providers.Yes, providers.No, providers.Unknown} {
		var those []string
		for _, r := range rights {
			if r.May == answer {
				those = append(those, r.What)
				found.More = append(found.More, fmt.Sprintf("%s: %s: %s", r.What, r.May, r.How))
			}
		}
		if len(those) > 0 {
			parts = append(parts, map[providers.Answer]string{providers.Yes: "may ", providers.No: "may not ", providers.Unknown: "unknown: "}[answer]+strings.Join(those, ", "))
		}
		if answer == providers.No && len(those) > 0 {
			found.Grade, found.Hint = gradeWarn, "the owner of the project, or of the cloud, gives roles"
		}
	}
	found.Text = strings.Join(parts, "; ")
	return found
}

// checkListing lists one directory of a provider.
func checkListing(ctx context.Context, p *pipeline.Pipeline, provider providerConfig, dir providers.Kind, readOnly bool) finding {
	check := provider.Name + ":" + string(dir)
	l, err := p.List(ctx, provider.Name, dir)
	if err != nil {
		return failsBy(check, err)
	}
	folder := provider.folder(dir)
	found := passes(check, "%s, %d entries", provider.place(dir), len(l.Entries))
	for _, e := range l.Entries {
		if e.Reason != "" {
			found.More = append(found.More, cmp.Or(e.Name, e.ID)+": "+e.Reason)
		}
	}
	if len(found.More) > 0 {
		found.Grade = gradeWarn
		found.Text += fmt.Sprintf(", %d of them cannot be read", len(found.More))
		found.Hint = "they are not listed in the mount; all others are"
	}
	if dir != providers.Images || readOnly || folder == "" {
		return found // nothing is written there, or what may be is not to be seen
	}
	if err := unix.Faccessat(unix.AT_FDCWD, folder, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		found.Grade = gradeWarn
		found.Text += fmt.Sprintf("; cannot be written: %v", err)
		found.Hint = cmp.Or(found.Hint, "nothing can be copied into it")
	}
	return found
}

// checkMountpoint looks at where the mount is, or is going to be.
func checkMountpoint(ctx context.Context, m *mounting) finding {
	const check = "mountpoint"
	dir, err := fs.MountPath(m.mountpoint)
	if err != nil {
		return failsBy(check, err)
	}
	kind, err := fs.MountedAt(dir)
	if err != nil {
		return failsBy(check, err)
	}
	late := fails(check, "umount -l "+dir, "%s: what is mounted there does not answer within %v", dir, checkTime)
	return within(ctx, func(context.Context) finding {
		names, err := os.ReadDir(dir)
		switch {
		case errors.Is(err, unix.ENOTCONN):
			return warns(check, "chromogenic umount "+dir, "%s: a dead mount is there, which the next mount takes away", dir)
		case errors.Is(err, iofs.ErrNotExist):
			return fails(check, "mkdir "+dir, "%s is not there", dir)
		case err != nil:
			return failsBy(check, err)
		case strings.HasSuffix(kind, ".chromogenic"):
			return passes(check, "%s is mounted", dir)
		}
		for _, e := range names {
			if name := e.Name(); name != "lost+found" && !strings.HasPrefix(name, ".") {
				return fails(check, "mount on an empty directory", "%s is not empty: it holds %q", dir, name)
			}
		}
		return passes(check, "%s is free", dir)
	}, late)
}
