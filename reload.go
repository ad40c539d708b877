package main

import (
	"reflect"

	"chromogenic/pipeline"
)

// reload reads the configuration again and takes its providers. One that is wrong
// changes nothing, and of the options of the mount none changes.
func (m *mounting) reload(p *pipeline.Pipeline) {
	if m.Path == "" {
		return
	}
	now, err := loadConfig(m.Path)
	if err == nil {
		err = now.provide(m.mountpoint, m.config)
	}
	if err == nil {
		err = p.Configure(now.made)
	}
	if err != nil {
		m.log.Error("the configuration is refused, and the one before stays", "error", err)
		return
	}
	m.Providers, m.made = now.Providers, now.made
	now.Providers, now.made = nil, nil
	old := m.file
	old.Providers, old.made = nil, nil
	if !reflect.DeepEqual(*now, old) {
		m.log.Warn("options of the mount have changed: unmount and mount again for those", "config", m.Path)
	}
}
