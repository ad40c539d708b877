package cleaner

import (
	"fmt"
	"io"
	"strings"
)

// Markdown prints docs/cleaning.md: the table, and how to use it.
func Markdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString(cleaningIntro)
	for _, section := range []struct {
		title     string
		isDefault bool
	}{
		{"What is done unless it is left out", true},
		{"What is done when it is asked for", false},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n| operation | what it does | what it touches |\n| --- | --- | --- |\n", section.title)
		for _, op := range Operations() {
			if op.Default == section.isDefault {
				fmt.Fprintf(&b, "| `%s` | %s | %s |\n", op.Name, cell(op.Heading), cell(op.Detail))
			}
		}
	}
	b.WriteString(cleaningRules)
	_, err := io.WriteString(w, b.String())
	return err
}

// cell is a text for a table: a star is not to begin emphasis.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "*", `\*`, "_", `\_`).Replace(s)
}

const cleaningIntro = `# What cleaning takes out of an image

This page is made from the table that the program goes by; ` + "`chromogenic clean --list`" + ` shows it too. What an image holds besides stays as it is, byte for byte, with owner, mode and attributes. The source of an image is never written to: what is cleaned is a copy.

Operations run in the order of the table. ` + "`--skip`" + ` leaves one out, ` + "`--only`" + ` runs those that it names and no other, ` + "`--with`" + ` adds one that is not done by default. A plan shows what would be touched, and writes nothing. A file that is not there is no error. One that cannot be cleaned is, and the image is then not published; the report says which operation failed, where, and why.

Homes are the home folders of all accounts, root's and those of services too, and every folder in /home. People are the accounts with a number from UID_MIN to UID_MAX of /etc/login.defs.
`

const cleaningRules = `
## Nobody is locked out

Where nothing in the guest brings a login at its first boot (cloud-init, ignition, afterburn, the agents of Google and Azure, and others), and nobody who could log in would be left, the image is refused. The ways on:

- ` + "`--keep-user NAME`" + ` keeps an account, with its home, its password and its authorized_keys. Histories and credentials in its home go nevertheless.
- ` + "`--ssh-key KEY`" + ` gives a key to the first kept user, or to root; ` + "`--ssh-key USER:KEY`" + ` to another.
- With cloud-init in the guest, a NoCloud seed, or the metadata of a cloud, gives a user at boot.

## How files are changed

- A log is emptied in place: the same inode, owner, mode, attributes and SELinux label. None is removed, but for the journal's, which are broken when they are emptied.
- A text is edited line by line; what does not match stays byte for byte. A new file takes the place of the old one all at once, with owner, mode and attributes. A file with several names is written in place instead, so that none of them keeps what was taken out.
- Symlinks are followed within the guest as its own kernel would, and never out of it. What is removed is the link. Devices and pipes are not opened.
- A file that is removed while it has another name elsewhere is named in the report: its content is there still.
- Files of swap keep their place on the disk and are overwritten.
- Where SELinux is enforced or permitted and a file was made, ` + "`/.autorelabel`" + ` has the guest label its files at the next boot.

What was deleted is in no free block of the image either: they are discarded after all operations.

## What it cannot know

Data of services (databases, web sites, volumes of containers) stays, for it is often what the image is for, and the report names where there is some. So it does with files of removed users outside of their homes, and with files that look like credentials of clouds. A secret in a place that only the site knows is for a recipe.

## Recipes

A recipe is a file in YAML with steps, done in order after the table and before keys are given. Paths are absolute in the guest. Nothing is executed but by ` + "`firstboot`" + `, and then by the guest itself.

` + "```yaml" + `
steps:
  - delete: /opt/site/state/*          # what matches, folders with all that is in them
  - truncate: /opt/site/app.log        # in place
  - truncate-recursive: /opt/site/log  # all files below
  - touch: /etc/site-image
  - write: {path: /etc/motd, content: "An image of the site.\n", mode: "0644", owner: root, group: root}
  - append-line: {path: /etc/hosts, line: "10.0.0.7 license"}     # unless it is there
  - replace: {path: /etc/app.conf, match: "^server=.*$", with: "server="}  # RE2; ^ and $ are ends of lines
  - delete-block: {path: /etc/profile, begin: "# BEGIN site", end: "# END site"}
  - mkdir: {path: /srv/data, mode: "0750", owner: "990", group: "990"}
  - chmod: {path: /srv/data, mode: "0770"}
  - chown: {path: /srv/data, owner: www-data}
  - link: {path: /usr/local/bin/python, to: /usr/bin/python3}
  - move: {from: /etc/app.conf.site, to: /etc/app.conf}
  - password: {user: admin, hash: "$6$salt$hash"}  # as crypt(5) has it; without, no password
  - ssh-inject: {user: admin, key: "ssh-ed25519 AAAA... admin"}
  - hostname: image
  - timezone: Europe/Berlin
  - firstboot:                         # once, at the next boot, by systemd
      name: enroll
      script: |
        #!/bin/sh
        /usr/local/sbin/enroll
` + "```" + `

What is not there is no error for delete, truncate, replace and delete-block. The first step that fails ends the recipe, and the image is not published.
`
