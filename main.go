// Chromogenic mounts folders of virtual-machine images: each image as raw,
// qcow2, vmdk and ova at once, as exact bytes that take no space.
//
// This package is the top floor: one file for each command, and the only place
// that names concrete providers.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
	"chromogenic/formats"
	"chromogenic/providers"
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

func main() { os.Exit(run()) }

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

// untilSignal is a context that ends with errInterrupted at the first SIGINT,
// SIGTERM or SIGHUP: a closed terminal too must leave nothing half made. The
// second one ends the process as if nobody caught it. A mount takes SIGHUP to
// refresh, see keepOnHangup.
func untilSignal(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	end, hangup := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	signal.Notify(hangup, syscall.SIGHUP)
	ctx = context.WithValue(ctx, hangupKey{}, hangup)
	go func() {
		select {
		case <-end:
			cancel(errInterrupted)
		case <-hangup:
			cancel(errInterrupted)
		case <-ctx.Done():
		}
		signal.Stop(end)
		signal.Stop(hangup)
	}()
	return ctx, func() { cancel(nil) }
}

// hangupKey is the key of the channel of SIGHUP in a context of untilSignal.
type hangupKey struct{}

// keepOnHangup lets a context of untilSignal outlive SIGHUP.
func keepOnHangup(ctx context.Context) {
	if c, ok := ctx.Value(hangupKey{}).(chan os.Signal); ok {
		signal.Stop(c)
	}
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
			captureCommand(),
			convertCommand(),
			inspectCommand(),
			metaCommand(),
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
// where it is going to be mounted, empty if it is not.
func newProvider(p providerConfig, mountpoint string) (providers.Provider, error) {
	switch p.Type {
	case typeLocal:
		return local.New(local.Options{
			Name:       p.Name,
			Images:     p.Images,
			Instances:  p.Instances,
			Store:      p.Store,
			Formats:    extensions(),
			Mountpoint: mountpoint,
		})
	case typeOpenStack:
		return openstack.New(openstack.Options{
			Name:       p.Name,
			Cloud:      p.Cloud,
			Region:     p.Region,
			Store:      p.Store,
			Import:     p.Import,
			Formats:    readable(),
			Properties: p.Properties,
		})
	}
	return nil, fmt.Errorf("make provider %q: unknown type %q", p.Name, p.Type)
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
		name := c.Name
		if c.Region != "" {
			name += "-" + c.Region
		}
		found = append(found, providerConfig{Name: directoryName(name), Type: typeOpenStack, Cloud: c.Name, Region: c.Region})
	}
	if len(found) == 0 && os.Getenv("OS_AUTH_URL") != "" {
		found = append(found, providerConfig{Name: "openstack", Type: typeOpenStack})
	}
	return found, nil
}

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
