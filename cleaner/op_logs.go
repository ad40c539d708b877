package cleaner

import (
	"path"
	"regexp"
	"strings"
)

// logs empties every log in place: none is removed, for services, rotation and labels
// count on them. The journal is emptied by removal: a truncated file of it is broken
// to its readers.
func logs(g *Guest) error {
	err := g.walk("/var/log", func(e entry) error {
		if e.path == "/var/log/journal" || path.Base(path.Dir(e.path)) == "journal" && e.folder() {
			return errSkip
		}
		if !e.regular() {
			return nil
		}
		return g.truncateEntry(e)
	})
	if err != nil {
		return err
	}
	if err := g.empty(nil, "/var/log/journal", "/run/log/journal"); err != nil {
		return err
	}
	// utmp(5) and those that have come after it.
	return g.truncate("/var/run/utmp", "/run/utmp", "/etc/utmp", "/etc/wtmp", "/var/adm/wtmp", "/var/lib/lastlog/lastlog2.db", "/var/lib/wtmpdb/wtmp.db", "/var/account/pacct", "/var/account/savacct", "/var/account/usracct")
}

// rotated is how logrotate(8) and others call what is no longer written to.
var rotated = regexp.MustCompile(`\.(gz|xz|zst|bz2|old|[0-9]+)$|-[0-9]{8}(-[0-9]+)?$|\.[0-9]+\.log$`)

// removeRotated removes rotated logs.
func removeRotated(g *Guest) error {
	return g.walk("/var/log", func(e entry) error {
		if e.regular() && rotated.MatchString(e.name) && !strings.HasPrefix(e.path, "/var/log/journal/") {
			return g.removeEntry(e)
		}
		return nil
	})
}

// logExtra removes what installers leave, and what is known of logs.
func logExtra(g *Guest) error {
	return g.remove(
		"/root/install.log", "/root/install.log.syslog", "/root/anaconda-ks.cfg", "/root/original-ks.cfg", "/root/initial-setup-ks.cfg", "/root/anaconda-post.log",
		"/anaconda-ks.cfg", "/var/log/installer/autoinstall-user-data", "/var/lib/logrotate/status", "/var/lib/logrotate/logrotate.status", "/var/lib/logrotate.status", "/var/lib/logcheck/offset*",
		"/var/account/pacct.*", "/var/account/pacct-*", "/var/installer", "/var/lib/ubuntu-release-upgrader/*", "/var/lib/update-notifier/*", "/var/lib/sosreport", "/var/sosreport*", "/var/lib/fail2ban/*", "/var/lib/denyhosts/*",
		// The names of all files that there were.
		"/var/lib/mlocate/mlocate.db*", "/var/lib/plocate/plocate.db*", "/var/cache/locate/*", "/var/lib/slocate/*",
	)
}
