package main

import (
	"reflect"

	"chromogenic/pipeline"
)

// reload reads the configuration again and takes its providers and limits, but for a
// limit that flags have set. One that is wrong changes nothing, and of the other
// options of the mount none changes.
func (m *mounting) reload(p *pipeline.Pipeline) {
	if m.Path == "" {
		return
	}
	now, err := loadConfig(m.Path)
	if err != nil {
		m.log.Error("the configuration is refused, and the one before stays", "error", err)
		return
	}
	settled := *now
	if _, err = settled.take(m.cli); err == nil {
		err = settled.provide(m.mountpoint, m.config)
	}
	if err == nil {
		err = p.Configure(settled.made, settled.limits())
	}
	if err != nil {
		m.log.Error("the configuration is refused, and the one before stays", "error", err)
		return
	}
	m.Providers, m.made = settled.Providers, settled.made
	m.BWLimit, m.ReadBudget = settled.BWLimit, settled.ReadBudget
	if !reflect.DeepEqual(now.fixed(), m.file.fixed()) {
		m.log.Warn("options of the mount have changed: unmount and mount again for those", "config", m.Path)
	}
}

// fixed is the part of a configuration that a mount keeps to its end.
func (c config) fixed() config {
	c.Providers, c.made = nil, nil
	c.BWLimit, c.ReadBudget = pipeline.Rate{}, pipeline.Budget{}
	return c
}
