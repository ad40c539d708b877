package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
	"chromogenic/fs"
	"chromogenic/pipeline"
	"chromogenic/pipeline/control"
)

// defaultMountpoint is where a configured mount goes when nothing says where.
const defaultMountpoint = "/clouds"

func mountCommand() *cli.Command {
	return &cli.Command{
		Name:      "mount",
		Usage:     "show images as files of every format",
		ArgsUsage: "[DIR|CONFIG] [MOUNTPOINT]",
		Description: "chromogenic mount DIR MOUNTPOINT shows the images of one folder, without any\n" +
			"configuration, as the provider \"local\". chromogenic mount [MOUNTPOINT] shows the\n" +
			"providers of the configuration; the mountpoint is " + defaultMountpoint + " if nothing else is said.\n" +
			"With --all every cloud of clouds.yaml is there too, under its name; it takes no configuration.\n" +
			"Each option below is also a word of -o and a key of the configuration, with _ for -.\n" +
			"\n" +
			"mount -t chromogenic DIR MOUNTPOINT -o OPTIONS, a line of fstab(5) of the type\n" +
			"chromogenic or fuse.chromogenic, and chromogenic DIR MOUNTPOINT -o OPTIONS mount in the\n" +
			"background and end with a status of mount(8). Instead of DIR they take a configuration\n" +
			"file, or none, which is the usual one.\n" +
			"\n" +
			"SIGTERM and SIGINT end the mount; SIGHUP takes the providers from the\n" +
			"configuration (with --all from clouds.yaml too) as it is now, and looks at all of them anew; SIGUSR1 logs a summary.",
		Flags: mountFlags(append(commonFlags(),
			&cli.BoolFlag{Name: "daemon", Aliases: []string{"d"}, Usage: "go into the background when the mount is live"},
			&cli.BoolFlag{Name: "all", Usage: "show every cloud of clouds.yaml too"},
			&cli.StringSliceFlag{Name: "o", Usage: "mount `OPTIONS` as mount(8) has them: ro, allow_other, formats=raw:qcow2"},
			// What mount(8) may want of its helper.
			&cli.BoolFlag{Name: "fake", Hidden: true, Usage: "do everything but mount"},
			&cli.BoolFlag{Name: "sloppy", Hidden: true, Usage: "leave out options that the kernel does not take"},
			&cli.StringFlag{Name: "namespace", Hidden: true, Usage: "mount in the namespace `FILE`"},
		)),
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 2); err != nil {
				return err
			}
			switch {
			case c.Bool("fake"):
				_, err := newMounting(c)
				return err
			case c.Bool("daemon") && os.Getenv(readyEnv) == "":
				return launch(c.Context, c.String("namespace"))
			}
			waiting := waitingParent()
			err := serve(c, waiting)
			waiting.failed(c.Context, err)
			return err
		},
	}
}

// A mounting is a mount that is about to be made.
type mounting struct {
	*config
	file       config   // what the file says of it, without flags and without clouds that it does not name
	hidden     []string // clouds that are not shown, for their names are taken
	kernel     []string // mount options that are not ours
	mountpoint string   // an absolute path
	source     string   // a folder or a configuration, as fstab(5) has it; empty without
	state      string
	log        *slog.Logger
	notify     *notifier
	cli        *cli.Context
}

// serve mounts, tells the parent, and returns when the mount has ended.
func serve(c *cli.Context, waiting *parent) error {
	m, err := newMounting(c)
	if err != nil {
		return err
	}
	closeLog, err := m.openLog(waiting != nil)
	if err != nil {
		return err
	}
	defer closeLog()
	m.warnHidden()
	m.notify = newNotifier(waiting != nil, m.log)
	p, err := m.pipeline(c.Context)
	if err != nil {
		return err
	}
	// From before the mount is there, for whoever sees it may send one.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1)
	servesMount(c.Context)
	defer signal.Stop(signals)
	server, err := m.mount(c.Context, p)
	if err != nil && c.Bool("sloppy") && len(m.kernel) > 0 {
		m.log.Warn("mount without options that the kernel refuses", "options", m.kernel)
		m.kernel = nil
		server, err = m.mount(c.Context, p)
	}
	if err != nil && disk.KindOf(err) == disk.Other {
		text := strings.TrimSpace(err.Error()) // FUSE says little, and a line's end
		if len(m.kernel) > 0 {
			text = fmt.Sprintf("mount options %q: they are not ours, and the kernel may not take them: %s", m.kernel, text)
		}
		err = disk.Hint(disk.Errorf(disk.Other, "%s", text), "chromogenic doctor tells what is missing")
	}
	if err != nil {
		p.Close()
		return err
	}
	p.Start(c.Context)
	stop, err := control.Serve(c.Context, p, filepath.Join(m.state, control.SocketName), m.log)
	if err != nil { // on a file system without sockets
		m.log.Warn("commands cannot ask this mount", "error", err)
		stop = func() {}
	}
	m.log.Info("mounted", "mountpoint", m.mountpoint, "providers", p.SiteNames(), "state_dir", m.state)
	if m.AllowOther {
		m.log.Warn("allow_other lets all users of this machine read with your rights")
	}
	if err := waiting.live(); err != nil {
		m.log.Warn("leave folder", "error", err)
	}
	m.notify.ready(m.status(p))
	err = m.wait(c.Context, signals, p, server)
	m.log.Info("unmounted", "mountpoint", m.mountpoint)
	stop()
	return errors.Join(err, p.Close())
}

// handover is how long a mount waits for the state of an earlier one that has been
// unmounted and is still tidying up.
const handover = 3 * time.Second

// pipeline makes the pipeline.
func (m *mounting) pipeline(ctx context.Context) (*pipeline.Pipeline, error) {
	for end := time.Now().Add(handover); ; {
		p, err := m.open(m.state, m.mountpoint, m.log, nil)
		if disk.KindOf(err) != disk.Busy || ctx.Err() != nil || time.Now().After(end) {
			return p, err
		}
	}
}

// mount makes the mount.
func (m *mounting) mount(ctx context.Context, p *pipeline.Pipeline) (*fs.Server, error) {
	return fs.Mount(ctx, fs.Options{
		Pipeline:     p,
		Mountpoint:   m.mountpoint,
		Source:       m.source,
		Formats:      m.Formats,
		ReadOnly:     m.ReadOnly,
		AllowOther:   m.AllowOther,
		AllowDelete:  m.AllowDelete,
		AllowReplace: m.AllowReplace,
		AllowMeta:    m.AllowMeta,
		UID:          m.UID,
		GID:          m.GID,
		Umask:        (*uint32)(m.Umask),
		Options:      m.kernel,
		Log:          m.log,
		Version:      version,
	})
}

// newMounting settles what configuration, environment, flags and -o say.
func newMounting(c *cli.Context) (*mounting, error) {
	m := &mounting{cli: c}
	mountpoint, err := m.configure(c)
	if err != nil {
		return nil, err
	}
	if m.mountpoint, err = filepath.Abs(mountpoint); err != nil {
		return nil, err
	}
	if m.kernel, err = m.take(c); err != nil {
		return nil, err
	}
	if m.state, err = m.stateDir(""); err != nil {
		return nil, err
	}
	if len(m.Formats) == 0 {
		m.Formats = []string{"raw", "qcow2", "vmdk", "ova", fs.JSONName}
	}
	return m, nil
}

// configure finds the configuration and the mountpoint.
func (m *mounting) configure(c *cli.Context) (mountpoint string, err error) {
	asked := configOption(c)
	if c.NArg() == 2 {
		m.source = c.Args().Get(0)
		m.config, err = sourceConfig(m.source, asked)
	} else {
		m.config, err = configured(asked)
		if c.Bool("all") && asked == "" && disk.KindOf(err) == disk.NotFound {
			m.config, err = &config{}, nil
		}
	}
	if err != nil {
		return "", err
	}
	m.file = *m.config
	m.file.Providers = slices.Clone(m.Providers)
	if c.Bool("all") {
		m.hidden, err = m.addDiscovered()
	}
	if c.NArg() == 2 {
		return c.Args().Get(1), err
	}
	if err == nil && c.Bool("all") && len(m.Providers) == 0 {
		err = disk.Hint(disk.Errorf(disk.NotFound, "mount --all: no cloud is found"), "openstack --os-cloud NAME image list must work; OS_CLIENT_CONFIG_FILE names a clouds.yaml")
	}
	if err != nil {
		return "", err
	}
	return cmp.Or(c.Args().First(), m.Mountpoint, defaultMountpoint), nil
}

// warnHidden tells of the clouds that are not shown.
func (m *mounting) warnHidden() {
	for _, name := range m.hidden {
		m.log.Warn("a cloud is not shown, for another provider has its name: give it one in the configuration", "cloud", name)
	}
}

// status is one line for whoever watches the service.
func (m *mounting) status(p *pipeline.Pipeline) string {
	return fmt.Sprintf("%s at %s", strings.Join(p.SiteNames(), ", "), m.mountpoint)
}

// openLog makes the log: to the file that is asked for, or standard error. A
// daemon has nobody who reads that, so it logs below its state directory.
func (m *mounting) openLog(daemon bool) (func(), error) {
	path := m.LogFile
	if path == "" && daemon {
		dir := filepath.Join(m.state, "log")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make log folder: %w", err)
		}
		path = filepath.Join(dir, "mount.log")
	}
	if path == "" {
		m.log = newLogger(os.Stderr, m.Debug)
		return func() {}, nil
	}
	f, err := openLog(path)
	if err != nil {
		return nil, err
	}
	if daemon {
		// A crash has no other place to tell of itself.
		if err := debug.SetCrashOutput(f, debug.CrashOptions{}); err != nil {
			f.Close()
			return nil, disk.Errorf(disk.Other, "open log: %w", err)
		}
	}
	m.log = newLogger(f, m.Debug)
	return func() { f.Close() }, nil
}

// patience is how long a mount that was told to end waits for programs that
// still have files of it open. Afterwards their reads fail.
const patience = 5 * time.Second

// wait serves until somebody unmounts, or the context ends; then it unmounts
// itself.
func (m *mounting) wait(ctx context.Context, signals <-chan os.Signal, p *pipeline.Pipeline, server *fs.Server) error {
	ended := make(chan struct{})
	go func() {
		server.Wait()
		close(ended)
	}()
	for {
		select {
		case <-ended:
			m.notify.stopping()
			return nil
		case s := <-signals:
			if s == syscall.SIGUSR1 {
				m.summarise(ctx, p)
				continue
			}
			m.notify.reloading()
			m.reload(p)
			p.Refresh()
			m.log.Info("refreshed", "providers", p.SiteNames())
			m.notify.ready(m.status(p))
		case <-ctx.Done():
			m.notify.stopping()
			if err := server.Unmount(); err != nil {
				return err
			}
			select {
			case <-ended:
			case <-time.After(patience):
				m.log.Warn("unmounted while programs had files open", "mountpoint", m.mountpoint)
			}
			return nil
		}
	}
}

// summarise logs what is served.
func (m *mounting) summarise(ctx context.Context, p *pipeline.Pipeline) {
	for _, site := range p.SiteNames() {
		for _, dir := range directories() {
			l, err := p.List(ctx, site, dir)
			if err != nil {
				m.log.Warn("summary", "site", site, "kind", dir, "error", err)
				continue
			}
			unreadable := 0
			for _, e := range l.Entries {
				if e.Reason != "" {
					unreadable++
				}
			}
			m.log.Info("summary", "site", site, "kind", dir, "entries", len(l.Entries), "unreadable", unreadable, "listed", l.At, "stale", l.Stale)
		}
	}
}
