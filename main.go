// Chromogenic mounts folders of virtual-machine images: each image as raw,
// qcow2, vmdk and ova at once, as exact bytes that take no space.
//
// This package is the top floor: one file for each command, and the only place
// that names concrete providers.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/urfave/cli/v2"

	"chromogenic/cleaner"
	"chromogenic/cleaner/guest"
	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/providers"
	"chromogenic/providers/eucalyptus"
	"chromogenic/providers/local"
	"chromogenic/providers/openstack"
)

// description is what the help and the manual page say of all commands.
const description = `Exit status: 0 done, 1 failed, 2 usage, 3 refused by policy, 4 not found,
5 unreachable or timed out, 6 verification failed or image malformed, 130 interrupted.
As the helper of mount(8): 0 done, 1 usage, 8 interrupted, 32 not mounted.

The configuration is --config FILE, $CHROMOGENIC_CONFIG, ~/.config/chromogenic/config.yaml or
/etc/chromogenic/config.yaml. State is kept in /var/lib/chromogenic, for users in
~/.local/state/chromogenic. chromogenic doctor tells what is missing.`

// version is set by the linker, from git describe.
var version = "devel"

// errInterrupted is the cause of a context that SIGINT or SIGTERM has ended.
var errInterrupted = disk.Errorf(disk.Interrupted, "interrupted")

// The kernel hands a signal for the process to its first thread, and to no other if
// that one waits for a disk which does not answer. So it only waits for the end.
func main() {
	if guest.Child(cleaner.Serve) {
		return
	}
	runtime.LockOSThread()
	status := make(chan int)
	go func() { status <- run() }()
	os.Exit(<-status)
}

// run is the whole program; it returns the exit status.
func run() int {
	ctx, stop := untilSignal(context.Background())
	defer stop()
	app := newApp()
	argv, helper, err := asMount(app, os.Args)
	if err == nil {
		err = app.RunContext(ctx, reorder(app, argv))
	}
	if err != nil {
		complain(os.Stderr, err)
	}
	if helper {
		return mountStatus(exitStatus(ctx, err))
	}
	return exitStatus(ctx, err)
}

// newApp is the command line.
func newApp() *cli.App {
	app := &cli.App{
		Name:                 "chromogenic",
		Usage:                "mount folders of disk images: each as raw, qcow2, vmdk and ova at once",
		Description:          description,
		Version:              version,
		Action:               unknownCommand,
		OnUsageError:         refuseFlag,
		ExitErrHandler:       func(*cli.Context, error) {}, // run decides the exit status
		EnableBashCompletion: true,
		HideHelpCommand:      true,
		Commands: []*cli.Command{
			mountCommand(),
			umountCommand(),
			lsCommand(),
			cpCommand(),
			exportCommand(),
			cleanCommand(),
			captureCommand(),
			convertCommand(),
			inspectCommand(),
			metaCommand(),
			rmCommand(),
			shareCommand(),
			unshareCommand(),
			membersCommand(),
			jobsCommand(),
			gcCommand(),
			refreshCommand(),
			explainCommand(),
			doctorCommand(),
			configCommand(),
			versionCommand(),
			completionCommand(),
			manCommand(),
		},
	}
	prepare(app.Commands)
	return app
}

// prepare gives every command what all have in common.
func prepare(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = refuseFlag
		c.HideHelpCommand = true
		prepare(c.Subcommands)
	}
}

// newProvider makes the provider that a configuration names. mountpoint is
// where it is going to be mounted, empty if it is not; dir a folder of its own for what
// it keeps.
func newProvider(p providerConfig, mountpoint, dir string) (providers.Provider, error) {
	switch p.Type {
	case typeLocal:
		return local.New(local.Options{
			Name:       p.Name,
			Images:     p.Images,
			Instances:  p.Instances,
			Store:      p.Store,
			Formats:    extensions(),
			Machines:   machines(),
			Mountpoint: mountpoint,
		})
	case typeOpenStack:
		return openstack.New(openstack.Options{
			Name:       p.Name,
			Cloud:      p.Cloud,
			Region:     p.Region,
			Store:      p.Store,
			Import:     p.Import,
			Spool:      p.Spool,
			Formats:    readable(),
			Properties: p.Properties,
		})
	case typeEucalyptus:
		e := p.Eucalyptus
		var nodes *eucalyptus.NodeAccess
		if n := e.Nodes; n != nil {
			nodes = &eucalyptus.NodeAccess{SSH: n.SSH, KeyFile: n.Key, Path: n.Path, KnownHosts: n.KnownHosts, Pause: n.Pause}
		}
		return eucalyptus.New(eucalyptus.Options{
			Name:       p.Name,
			Eucarc:     e.Eucarc,
			Profile:    e.Profile,
			SigV2:      e.SigV2,
			Bucket:     e.Bucket,
			Index:      e.Index,
			Users:      e.Users,
			MayRestart: e.Restart,
			Nodes:      nodes,
			Dir:        dir,
		})
	}
	return nil, fmt.Errorf("make provider %q: unknown type %q", p.Name, p.Type)
}

// machines are the formats whose files hold all disks of a machine.
func machines() []string {
	var names []string
	for _, f := range formats.Table() {
		if f.Machine {
			names = append(names, f.Name)
		}
	}
	return names
}

// discovered are the clouds that need no configuration of ours: those that the user's
// other tools know.
func discovered() ([]providerConfig, error) {
	clouds, err := openstack.Clouds()
	if err != nil && disk.KindOf(err) != disk.NotFound {
		return nil, err
	}
	var found []providerConfig
	for _, c := range clouds {
		found = append(found, providerConfig{Type: typeOpenStack, Cloud: c.Name, Region: c.Region, Found: true})
	}
	nameClouds(found)
	if len(found) == 0 && os.Getenv("OS_AUTH_URL") != "" {
		found = append(found, providerConfig{Name: "openstack", Type: typeOpenStack, Found: true})
	}
	if eucalyptus.Found() {
		found = append(found, providerConfig{Name: "euca", Type: typeEucalyptus, Found: true})
	}
	return found, nil
}

// anchor makes the paths that the environment gives to providers good for any working
// directory.
func anchor() error { return errors.Join(openstack.Anchor(), eucalyptus.Anchor()) }

// readable are the formats that can be read.
func readable() map[string]bool {
	names := map[string]bool{}
	for _, f := range formats.Table() {
		names[f.Name] = true
	}
	return names
}

// extensions gives the format of each file name extension that is known.
func extensions() map[string]string {
	exts := map[string]string{}
	for _, f := range formats.Table() {
		for _, ext := range f.Exts {
			exts[ext] = f.Name
		}
	}
	return exts
}
