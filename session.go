package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/pipeline"
	"chromogenic/pipeline/control"
)

// configured loads the configuration file that is asked for, or the first that
// is found; without any it fails as NotFound.
func configured(asked string) (*config, error) {
	path, err := findConfig(asked)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return nil, disk.Hint(disk.Errorf(disk.NotFound, "find configuration: there is none"),
			"write /etc/chromogenic/config.yaml or say --config FILE; chromogenic mount DIR MOUNTPOINT needs none")
	}
	return loadConfig(path)
}

// configuredOrFound is configured, or without a configuration that of the clouds that
// need none.
func configuredOrFound(asked string) (*config, error) {
	conf, err := configured(asked)
	if err == nil || asked != "" || disk.KindOf(err) != disk.NotFound {
		return conf, err
	}
	found := &config{}
	if _, failed := found.addDiscovered(); failed != nil || len(found.Providers) == 0 {
		return nil, cmp.Or(failed, err)
	}
	return found, nil
}

// commandConfig is configuredOrFound for a command, with the clouds that its arguments
// name and the configuration does not.
func commandConfig(c *cli.Context) (*config, error) {
	conf, err := configuredOrFound(c.String("config"))
	if err != nil {
		return nil, err
	}
	return conf, conf.addNamed(c.Args().Slice())
}

// sourceConfig is the configuration that the first of two arguments stands for:
// that of a folder, a file, or, for a word that fstab(5) has where there is no
// device, the usual one or the one that is asked for.
func sourceConfig(src, asked string) (*config, error) {
	info, err := os.Stat(src)
	_, isImage := extensions()[strings.TrimPrefix(filepath.Ext(src), ".")]
	switch {
	case errors.Is(err, iofs.ErrNotExist) && slices.Contains([]string{"none", "chromogenic", "config"}, src):
		return configured(asked)
	case asked != "":
		return nil, usage("say chromogenic mount --config FILE MOUNTPOINT", "mount: %q and a configuration exclude each other", src)
	case err == nil && info.Mode().IsRegular() && !isImage:
		return loadConfig(src)
	}
	return folderConfig(src)
}

// folderConfig is the configuration of a mount without any: one folder, as the
// provider local. Its state has a place of its own below the usual one, so that
// the states of two folders never meet.
func folderConfig(dir string) (*config, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, disk.Errorf(disk.Invalid, "mount %q: it is not a folder", dir)
	}
	state, err := defaultStateDir()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(dir))
	return &config{
		StateDir:  filepath.Join(state, "folders", hex.EncodeToString(sum[:4])),
		Providers: []providerConfig{{Name: "local", Type: "local", Images: dir}},
	}, nil
}

// defaultStateDir is where the state is kept when nothing says where.
func defaultStateDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/chromogenic", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "chromogenic"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", disk.Hint(disk.Errorf(disk.Invalid, "find state directory: %w", err), "say --state-dir DIR")
	}
	return filepath.Join(home, ".local", "state", "chromogenic"), nil
}

// stateDir is the state directory of a command: the flag, the configuration, or
// the default.
func (c *config) stateDir(flag string) (string, error) {
	switch {
	case flag != "":
		return filepath.Abs(flag)
	case c.StateDir != "":
		return c.StateDir, nil
	}
	return defaultStateDir()
}

// provide makes the providers, but for those that an old configuration has made of the
// same words, whatever it says of limits. What they keep is below dir.
func (c *config) provide(mountpoint, dir string, old *config) error {
	if len(c.Providers) == 0 {
		return disk.Hint(disk.Errorf(disk.Invalid, "%s names no providers", c.Path), "add some below the key providers")
	}
	c.made = nil
	for _, p := range c.Providers {
		site := pipeline.Site{Cloud: p.Type != typeLocal, Clean: p.Clean, Snapshot: p.Snapshot, Limits: pipeline.Limits{Rate: p.BWLimit, Budget: p.ReadBudget}}
		same := func(q providerConfig) bool { return reflect.DeepEqual(p.unlimited(), q.unlimited()) }
		var err error
		if i := slices.IndexFunc(old.Providers, same); i >= 0 && i < len(old.made) {
			site.Provider = old.made[i].Provider
		} else if site.Provider, err = newProvider(p, mountpoint, filepath.Join(dir, "providers", p.Name)); err != nil {
			return err
		}
		c.made = append(c.made, site)
	}
	return nil
}

// open makes the pipeline of a configuration. mountpoint is where it is going to
// be mounted, empty if it is not. charge counts what is read; nil does so in the
// state.
func (c *config) open(stateDir, mountpoint string, log *slog.Logger, charge pipeline.Charger) (*pipeline.Pipeline, error) {
	dir := stateDir
	if dir == "" { // another process has it, or another user
		var err error
		if dir, err = c.ownDir(); err != nil {
			return nil, err
		}
	}
	if err := c.provide(mountpoint, dir, &config{}); err != nil {
		return nil, err
	}
	return pipeline.New(pipeline.Options{
		Sites:      c.made,
		StateDir:   stateDir,
		SpoolLimit: c.SpoolLimit,
		CacheSize:  c.CacheSize,
		Limits:     c.limits(),
		Cleaning:   c.Cleaning,
		Charge:     charge,
		Serving:    mountpoint != "",
		Log:        log,
	})
}

// ownDir is a state directory that providers may write to, which share it with other
// processes: that of the configuration, or else the user's.
func (c *config) ownDir() (string, error) {
	dir, err := c.stateDir("")
	if err != nil || unix.Access(dir, unix.W_OK) == nil || errors.Is(unix.Access(dir, unix.F_OK), unix.ENOENT) {
		return dir, err
	}
	return defaultStateDir()
}

// openSession makes the pipeline for a command that only lists or copies.
//
// One process owns the state directory. While a mount does, or when it belongs
// to another user, the command works without it: it learns anew what it needs
// of an image and forgets it at its end. No answer depends on what was
// remembered.
func openSession(c *cli.Context) (*pipeline.Pipeline, *config, error) {
	conf, err := commandConfig(c)
	if err != nil {
		return nil, nil, err
	}
	dir, err := conf.stateDir(c.String("state-dir"))
	if err != nil {
		return nil, nil, err
	}
	log := quietLogger(c)
	p, err := conf.open(dir, "", log, nil)
	if kind := disk.KindOf(err); kind == disk.Busy || kind == disk.Denied || kind == disk.ReadOnly {
		log.Debug("work without the state directory", "dir", dir, "reason", err)
		p, err = conf.open("", "", log, chargeOwner(dir))
	}
	if err != nil {
		return nil, nil, err
	}
	return p, conf, nil
}

// chargeOwner counts what a command reads with the process that has the state
// directory; nil where that cannot be asked.
func chargeOwner(stateDir string) pipeline.Charger {
	client, err := control.Dial(filepath.Join(stateDir, control.SocketName))
	if err != nil {
		return nil
	}
	return client.Charge
}

// openService is for a command that asks for what is in the state directory: of
// the mount that owns it, or of a pipeline of its own where none does. The
// function ends it.
func openService(c *cli.Context) (control.Service, func(), error) {
	// A mount of a folder has no configuration, and needs none to be asked.
	conf, confErr := configuredOrFound(c.String("config"))
	if confErr != nil {
		conf = &config{}
	}
	dir, err := conf.stateDir(c.String("state-dir"))
	if err != nil {
		return nil, nil, err
	}
	switch client, err := control.Dial(filepath.Join(dir, control.SocketName)); {
	case err == nil:
		return client, client.Close, nil
	case disk.KindOf(err) != disk.NotFound:
		return nil, nil, err
	case confErr != nil:
		return nil, nil, confErr
	}
	p, err := conf.open(dir, "", quietLogger(c), nil)
	if err != nil {
		return nil, nil, err
	}
	return control.Local(p), func() { p.Close() }, nil
}

// openOwner is for a command that must know who uses an image: it asks the mount that
// owns the state directory, or opens that itself, and fails where it can do neither. The
// pipeline is to look with. The function ends both.
func openOwner(c *cli.Context) (control.Service, *pipeline.Pipeline, func(), error) {
	conf, err := commandConfig(c)
	if err != nil {
		return nil, nil, nil, err
	}
	dir, err := conf.stateDir(c.String("state-dir"))
	if err != nil {
		return nil, nil, nil, err
	}
	var charge pipeline.Charger
	client, err := control.Dial(filepath.Join(dir, control.SocketName))
	switch {
	case err == nil:
		dir, charge = "", client.Charge // the mount has it
	case disk.KindOf(err) != disk.NotFound:
		return nil, nil, nil, err
	}
	p, err := conf.open(dir, "", quietLogger(c), charge)
	if err != nil {
		if client != nil {
			client.Close()
		}
		return nil, nil, nil, err
	}
	if client == nil {
		return control.Local(p), p, func() { p.Close() }, nil
	}
	return client, p, func() { client.Close(); p.Close() }, nil
}

// service asks the mount that owns the state directory to copy, so that it knows
// at once; where none does, p copies.
func service(c *cli.Context, p *pipeline.Pipeline, conf *config) (control.Service, func(), error) {
	dir, err := conf.stateDir(c.String("state-dir"))
	if err != nil {
		return nil, nil, err
	}
	client, err := control.Dial(filepath.Join(dir, control.SocketName))
	if kind := disk.KindOf(err); kind == disk.NotFound || kind == disk.Denied {
		return control.Local(p), func() {}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return client, client.Close, nil
}
