package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

func TestReorder(t *testing.T) {
	app := &cli.App{
		Flags: []cli.Flag{&cli.BoolFlag{Name: "debug"}, &cli.StringFlag{Name: "config"}},
		Commands: []*cli.Command{
			{Name: "cp", Flags: []cli.Flag{
				&cli.StringFlag{Name: "store", Aliases: []string{"O"}},
				&cli.StringSliceFlag{Name: "o"},
				&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}},
			}},
			{Name: "config", Subcommands: []*cli.Command{{Name: "check", Flags: []cli.Flag{&cli.BoolFlag{Name: "json"}}}}},
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
		{"--config c.yaml cp a -n", "--config c.yaml cp -n -- a"},
		{"--debug config check --json", "--debug config check --json"},
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
