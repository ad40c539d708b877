package cleaner

import "fmt"

// A unit runs a command once at the start of the guest, while a condition holds.
type unit struct {
	name      string // without .service
	about     string
	condition string // a line of systemd.unit(5)
	before    string // units, with spaces
	command   string // as ExecStart= has it, systemd.service(5)
}

// unit installs one and enables it, as systemctl enable would.
func (g *Guest) unit(u unit) error {
	text := fmt.Sprintf(`# Made by chromogenic when the image was cleaned.
[Unit]
Description=%s
%s
Before=%s

[Service]
Type=oneshot
ExecStart=%s

[Install]
WantedBy=multi-user.target
`, u.about, u.condition, u.before, u.command)
	file := "/etc/systemd/system/" + u.name + ".service"
	wants := "/etc/systemd/system/multi-user.target.wants"
	if err := g.mkdir(wants, owner{mode: 0o755}); err != nil {
		return err
	}
	if err := g.write(file, []byte(text), owner{mode: 0o644}); err != nil {
		return err
	}
	return g.link(file, wants+"/"+u.name+".service")
}
