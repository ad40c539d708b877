package main

import (
	"reflect"
	"slices"

	"chromogenic/pipeline"
)

// reload reads the configuration again, and with --all which clouds there are, and
// takes their providers and limits, but for a limit that flags have set. One that is
// wrong changes nothing, and of the other options of the mount none changes.
func (m *mounting) reload(p *pipeline.Pipeline) {
	all := m.cli.Bool("all")
	if m.Path == "" && !all {
		return
	}
	now, hidden, err := m.reread(all)
	if err != nil {
		m.log.Error("the configuration is refused, and the one before stays", "error", err)
		return
	}
	settled := *now
	if _, err = settled.take(m.cli); err == nil {
		err = settled.provide(m.mountpoint, m.state, m.config)
	}
	if err == nil {
		err = p.Configure(settled.made, settled.limits())
	}
	if err != nil {
		m.log.Error("the configuration is refused, and the one before stays", "error", err)
		return
	}
	m.hidden = hidden
	m.warnHidden()
	m.Providers, m.made = settled.Providers, settled.made
	m.BWLimit, m.ReadBudget = settled.BWLimit, settled.ReadBudget
	if !reflect.DeepEqual(now.fixed(), m.file.fixed()) {
		m.log.Warn("options of the mount have changed: unmount and mount again for those", "config", m.Path)
	}
}

// reread is the configuration as it is now, with the clouds that it does not name if
// they are asked for too; hidden is that of addDiscovered.
func (m *mounting) reread(all bool) (now *config, hidden []string, err error) {
	if now = new(m.file); m.Path != "" {
		now, err = loadConfig(m.Path)
	} else {
		now.Providers = slices.Clone(m.file.Providers)
	}
	if err == nil && all {
		hidden, err = now.rediscovered(m.Providers)
	}
	return now, hidden, err
}

// fixed is the part of a configuration that a mount keeps to its end.
func (c config) fixed() config {
	c.Providers, c.made = nil, nil
	c.BWLimit, c.ReadBudget = pipeline.Rate{}, pipeline.Budget{}
	return c
}
