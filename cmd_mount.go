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
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"chromogenic/disk"
	"chromogenic/fs"
	"chromogenic/pipeline"
)

// defaultMountpoint is where a configured mount goes when nothing says where.
const defaultMountpoint = "/clouds"

func mountCommand() *cli.Command {
	return &cli.Command{
		Name:      "mount",
		Usage:     "show images as files of every format",
		ArgsUsage: "[DIR] [MOUNTPOINT]",
		Description: "chromogenic mount DIR MOUNTPOINT shows the images of one folder, without any\n" +
			"configuration, as the provider \"local\". chromogenic mount [MOUNTPOINT] shows the\n" +
			"providers of the configuration; the mountpoint is " + defaultMountpoint + " if nothing else is said.\n" +
			"SIGTERM and SIGINT end the mount, SIGHUP looks at all providers anew, SIGUSR1 logs\n" +
			"a summary.",
		Flags: append(commonFlags(),
			&cli.BoolFlag{Name: "daemon", Aliases: []string{"d"}, Usage: "go into the background when the mount is live"},
			&cli.BoolFlag{Name: "read-only", Usage: "take no images", EnvVars: []string{"CHROMOGENIC_READ_ONLY"}},
			&cli.BoolFlag{Name: "allow-other", Usage: "let other users read, with your rights", EnvVars: []string{"CHROMOGENIC_ALLOW_OTHER"}},
			&cli.BoolFlag{Name: "allow-delete", Usage: "let rm delete images", EnvVars: []string{"CHROMOGENIC_ALLOW_DELETE"}},
			&cli.StringSliceFlag{Name: "formats", Usage: "list these `FORMATS` (the others resolve by name)", EnvVars: []string{"CHROMOGENIC_FORMATS"}},
			&cli.StringFlag{Name: "log-file", Usage: "append the log to `FILE`", EnvVars: []string{"CHROMOGENIC_LOG_FILE"}},
			&cli.StringSliceFlag{Name: "o", Usage: "mount `OPTIONS` as mount(8) has them: ro, allow_other, formats=raw:qcow2"},
		),
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 2); err != nil {
				return err
			}
			if c.Bool("daemon") && os.Getenv(readyEnv) == "" {
				return launch(c.Context)
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
	mountFlags
	config     *config
	mountpoint string // an absolute path
	state      string
	log        *slog.Logger
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
	p, err := m.open(c.Context)
	if err != nil {
		return err
	}
	p.Sweep(c.Context)
	// From before the mount is there, for whoever sees it may send one.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1)
	keepOnHangup(c.Context)
	defer signal.Stop(signals)
	server, err := fs.Mount(c.Context, fs.Options{
		Pipeline:    p,
		Mountpoint:  m.mountpoint,
		Formats:     m.Formats,
		ReadOnly:    m.ReadOnly,
		AllowOther:  m.AllowOther,
		AllowDelete: m.AllowDelete,
		Options:     m.FUSE,
		Log:         m.log,
		Version:     version,
	})
	if err != nil {
		p.Close()
		return err
	}
	m.log.Info("mounted", "mountpoint", m.mountpoint, "providers", p.SiteNames(), "state_dir", m.state)
	if m.AllowOther {
		m.log.Warn("allow_other lets all users of this machine read with your rights")
	}
	if err := waiting.live(); err != nil {
		m.log.Warn("leave folder", "error", err)
	}
	err = m.wait(c.Context, signals, p, server)
	m.log.Info("unmounted", "mountpoint", m.mountpoint)
	return errors.Join(err, p.Close())
}

// handover is how long a mount waits for the state of an earlier one that has been
// unmounted and is still tidying up.
const handover = 3 * time.Second

// open makes the pipeline.
func (m *mounting) open(ctx context.Context) (*pipeline.Pipeline, error) {
	for end := time.Now().Add(handover); ; {
		p, err := m.config.open(m.state, m.mountpoint, m.log)
		if disk.KindOf(err) != disk.Busy || ctx.Err() != nil || time.Now().After(end) {
			return p, err
		}
	}
}

// newMounting settles what flags, -o, environment and configuration say.
func newMounting(c *cli.Context) (*mounting, error) {
	m := &mounting{mountFlags: mountFlags{
		Config:      c.String("config"),
		StateDir:    c.String("state-dir"),
		LogFile:     c.String("log-file"),
		Formats:     c.StringSlice("formats"),
		ReadOnly:    c.Bool("read-only"),
		AllowOther:  c.Bool("allow-other"),
		AllowDelete: c.Bool("allow-delete"),
		Debug:       c.Bool("debug"),
	}}
	for _, options := range c.StringSlice("o") {
		if err := m.apply(options); err != nil {
			return nil, err
		}
	}
	mountpoint, err := m.configure(c)
	if err != nil {
		return nil, err
	}
	if m.mountpoint, err = filepath.Abs(mountpoint); err != nil {
		return nil, err
	}
	if m.state, err = m.config.stateDir(m.StateDir); err != nil {
		return nil, err
	}
	switch {
	case len(m.Formats) > 0:
		if err := checkFormats(m.Formats); err != nil {
			return nil, usage("", "%v", err)
		}
	default:
		m.Formats = m.config.Formats
	}
	if len(m.Formats) == 0 {
		m.Formats = []string{"raw", "qcow2", "vmdk", "ova"}
	}
	return m, nil
}

// configure finds the configuration and the mountpoint.
func (m *mounting) configure(c *cli.Context) (mountpoint string, err error) {
	if c.NArg() == 2 {
		if m.Config != "" {
			return "", usage("say chromogenic mount --config FILE MOUNTPOINT", "mount: a folder and a configuration exclude each other")
		}
		m.config, err = folderConfig(c.Args().Get(0))
		return c.Args().Get(1), err
	}
	m.config, err = configured(m.Config)
	if err != nil {
		return "", err
	}
	return cmp.Or(c.Args().First(), m.config.Mountpoint, defaultMountpoint), nil
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
			return nil
		case s := <-signals:
			if s == syscall.SIGUSR1 {
				m.summarise(ctx, p)
				continue
			}
			p.Refresh()
			m.log.Info("refreshed", "providers", p.SiteNames())
		case <-ctx.Done():
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
