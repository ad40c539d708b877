package cleaner

// historyFiles are what shells, clients and editors remember, in a home.
var historyFiles = []string{
	".*_history", ".*_history-*", ".history", ".histfile", ".*_hist", ".zhistory", ".zsh_sessions", ".bash_sessions", ".lesshst", ".viminfo", ".viminfo.tmp", ".wget-hsts", ".selected_editor", ".sudo_as_admin_successful", ".mysql_history.TMP",
	".dbshell", ".mongorc_history", ".mongodb/mongosh/*_history", ".rediscli_history", ".node_repl_history", ".irb-history", ".pry_history",
	".local/share/fish", ".local/share/recently-used*", ".local/share/nvim/shada", ".local/state/nvim", ".local/state/*history*", ".local/state/less", ".local/state/python*", ".local/share/mc/history", ".config/mc/history", ".mc/history",
	".Xauthority", ".ICEauthority", ".xsession-errors*", ".nano/*_history", ".nano_history", ".local/share/nano", ".emacs.d/auto-save-list", ".emacs.d/*history*", ".calc_history", ".octave_hist", ".Rhistory", ".ipython/profile_*/history.sqlite", ".python_history*", ".jupyter/migrated", ".rpdb_history", ".gdb_history", ".ftp_history", ".lftp", ".ncftp/history", ".atftp_history", ".telnet_history", ".units_history", ".maxima_history", ".wp-cli/cache", ".tig_history", ".cache",
	".vim/undo", ".vim/backup", ".vim/swap", ".vimundo", ".*.swp", ".*.swo", ".local/share/vim", ".local/share/Trash", "nohup.out", "dead.letter", ".recently-used*", ".thumbnails", ".mozilla", ".config/google-chrome", ".config/chromium", ".w3m", ".elinks", ".lynx*", ".links", ".links2",
}

// history removes them from every home.
func history(g *Guest) error {
	patterns, err := g.inHomes(historyFiles...)
	if err != nil {
		return err
	}
	return g.remove(patterns...)
}
