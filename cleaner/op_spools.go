package cleaner

import (
	"bytes"
	"path"
	"strings"
)

// spools removes what waits to be done or read: mail, jobs of at(1), prints, and the
// crontabs of accounts that are not there, or no longer. An at job has the whole
// environment of the shell that it comes from.
func spools(g *Guest) error {
	if err := g.removeFiles("/var/mail", "/var/spool/mail", "/var/spool/cups", "/var/spool/cups-pdf", "/var/spool/lpd", "/var/spool/postfix/active", "/var/spool/postfix/bounce", "/var/spool/postfix/corrupt", "/var/spool/postfix/defer", "/var/spool/postfix/deferred", "/var/spool/postfix/flush", "/var/spool/postfix/hold", "/var/spool/postfix/incoming", "/var/spool/postfix/maildrop", "/var/spool/postfix/saved", "/var/spool/postfix/trace",
		"/var/spool/exim4/input", "/var/spool/exim4/msglog", "/var/spool/exim4/db", "/var/spool/exim/input", "/var/spool/exim/msglog", "/var/spool/exim/db", "/var/spool/mqueue", "/var/spool/clientmqueue", "/var/spool/mqueue-client", "/var/spool/nullmailer/queue", "/var/spool/nullmailer/failed", "/var/spool/rsyslog", "/var/spool/rwho", "/var/spool/uucp", "/var/spool/fax", "/var/spool/samba", "/var/spool/squid"); err != nil {
		return err
	}
	for _, folder := range []string{"/var/spool/cron/atjobs", "/var/spool/cron/atspool", "/var/spool/at", "/var/spool/at/spool", "/var/spool/atjobs", "/var/spool/atspool"} {
		if err := g.empty(func(p string) bool {
			n, ok, err := g.lookup(p, false)
			return err == nil && ok && (n.folder() || path.Base(p) == ".SEQ" || path.Base(p) == ".lockfile")
		}, folder); err != nil {
			return err
		}
		// The number of the last job, which is none.
		if _, err := g.edit(folder+"/.SEQ", func(text []byte) []byte {
			if len(bytes.Trim(text, "0 \n")) == 0 {
				return text
			}
			return []byte("00000\n")
		}); err != nil {
			return err
		}
	}
	return crontabs(g, func(name string) bool {
		_, there := g.named(name)
		return there
	})
}

// allCrontabs removes those of the accounts that stay too.
func allCrontabs(g *Guest) error { return crontabs(g, func(string) bool { return false }) }

func crontabs(g *Guest, keep func(user string) bool) error {
	for _, folder := range []string{"/var/spool/cron", "/var/spool/cron/crontabs", "/var/spool/cron/tabs", "/etc/crontabs", "/var/spool/fcron"} {
		if err := g.empty(func(p string) bool {
			n, ok, err := g.lookup(p, false)
			if err != nil || !ok || !n.regular() {
				return true
			}
			// crontab(1) leaves temporaries of its own name when it is ended.
			name := path.Base(p)
			return keep(name) && !strings.HasPrefix(name, "tmp.")
		}, folder); err != nil {
			return err
		}
	}
	return nil
}
