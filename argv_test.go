package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

func TestReorder(t *testing.T) {
	app := &cli.App{
		Commands: []*cli.Command{
			{Name: "cp", Flags: []cli.Flag{
				&cli.StringFlag{Name: "config", Aliases: []string{"c"}},
				&cli.StringFlag{Name: "store", Aliases: []string{"O"}},
				&cli.StringSliceFlag{Name: "o"},
				&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}},
			}},
			{Name: "config", Subcommands: []*cli.Command{{Name: "check", Flags: []cli.Flag{&cli.BoolFlag{Name: "json"}, &cli.BoolFlag{Name: "debug"}}}}},
		},
	}
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"cp", "cp"},
		{"cp a b", "cp -- a b"},
		{"cp a b --dry-run", "cp --dry-run -- a b"},
		{"cp a --store qcow2 b -n", "cp --store qcow2 -n -- a b"},
		{"cp a -O qcow2 b", "cp -O qcow2 -- a b"},
		{"cp a --store=qcow2 b", "cp --store=qcow2 -- a b"},
		{"cp a b -o ro,allow_other -o x=-y", "cp -o ro,allow_other -o x=-y -- a b"},
		{"cp --store -x a", "cp --store -x -- a"}, // the value of a flag may look like one
		{"cp a -- --dry-run -b", "cp -- a --dry-run -b"},
		{"cp -n -- -a b", "cp -n -- -a b"},
		{"cp - b -n", "cp -n -- - b"},
		{"cp a b --store", "cp --store"}, // refused later: the value is missing
		{"cp a b --help", "cp --help"},
		{"cp a -- --help", "cp -- a --help"},
		{"cp a --nonsense b", "cp --nonsense -- a b"},
		{"--config c.yaml cp a -n", "cp --config c.yaml -n -- a"},
		{"--debug config check --json", "config check --json --debug"},
		{"-c c.yaml cp", "cp -c c.yaml"},
		{"--config cp", "--config cp"}, // its value; the command is missing
		{"--version", "--version"},
		{"--debug nonsense", "--debug nonsense"},
		{"config check x --json", "config check --json -- x"},
		{"config nonsense --json", "config nonsense --json"},
		{"nonsense a --json", "nonsense a --json"},
		{"cp a --generate-bash-completion", "cp a --generate-bash-completion"},
	} {
		got := reorder(app, append([]string{"chromogenic"}, strings.Fields(c.in)...))
		if diff := cmp.Diff(append([]string{"chromogenic"}, strings.Fields(c.want)...), got); diff != "" {
			t.Errorf("reorder %q (-want +got):\n%s", c.in, diff)
		}
	}
}

// The command lines of mount(8) and mount.fuse, and those that are none.
func TestAsMount(t *testing.T) {
	app := newApp()
	for _, c := range []struct{ in, want string }{
		{"/sbin/mount.chromogenic /srv /mnt", "mount --daemon -- /srv /mnt"},
		{"mount.chromogenic /srv /mnt -o rw,ro,x=-y", "mount --daemon -o rw,ro,x=-y -- /srv /mnt"},
		{"mount.fuse.chromogenic /srv /mnt -o rw", "mount --daemon -o rw -- /srv /mnt"},
		{"mount.chromogenic none /mnt -s -f -n -v -o a -t chromogenic", "mount --daemon --sloppy --fake -o a -- none /mnt"},
		{"mount.chromogenic -sfnv -oa,b -t fuse.chromogenic -N /proc/1/ns/mnt config /mnt", "mount --daemon --sloppy --fake -o a,b --namespace /proc/1/ns/mnt -- config /mnt"},
		{"mount.chromogenic cp /mnt", "mount --daemon -- cp /mnt"}, // a folder of that name
		{"chromogenic /srv /mnt -o rw,dev,suid", "mount --daemon -o rw,dev,suid -- /srv /mnt"},
		{"chromogenic config /mnt -o rw", "mount --daemon -o rw -- config /mnt"},
		{"chromogenic -o rw srv mnt", "mount --daemon -o rw -- srv mnt"},
		{"mount.chromogenic", ""},
		{"mount.chromogenic /srv", ""},
		{"mount.chromogenic /srv /mnt more", ""},
		{"mount.chromogenic /srv /mnt -o", ""},
		{"mount.chromogenic /srv /mnt -x", ""},
		{"mount.chromogenic --help", ""},
		{"chromogenic", "-"},
		{"chromogenic /srv /mnt", "-"},
		{"chromogenic mount /mnt -o ro", "-"},
		{"chromogenic mount /srv /mnt -o ro", "-"},
		{"chromogenic convert a b -o x", "-"},
		{"chromogenic cp a -o x", "-"},
		{"chromogenic config check", "-"},
		{"chromogenic a b -o", "-"},
		{"chromogenic --help", "-"},
	} {
		in := strings.Fields(c.in)
		got, helper, err := asMount(app, in)
		if (err != nil) != (c.want == "") || helper != (c.want != "-") {
			t.Errorf("%q: helper %t, error %v", c.in, helper, err)
			continue
		}
		want := append(in[:1:1], strings.Fields(c.want)...)
		switch c.want {
		case "":
			want = nil
		case "-":
			want = in
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.in, diff)
		}
	}
}

func TestMountStatus(t *testing.T) {
	for in, want := range map[int]int{exitDone: 0, exitFailed: 32, exitUsage: 1, exitPolicy: 32, exitNotFound: 32, exitUnreachable: 32, exitVerify: 32, exitInterrupted: 8} {
		if got := mountStatus(in); got != want {
			t.Errorf("status %d is %d of mount(8), want %d", in, got, want)
		}
	}
}
