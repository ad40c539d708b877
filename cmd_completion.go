package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// bashCompletion asks the program itself. Of two words of which the second is
// not a command's flag, bash goes on to complete file names.
const bashCompletion = `_chromogenic() {
  local cur="${COMP_WORDS[COMP_CWORD]}" words=("${COMP_WORDS[@]:0:COMP_CWORD}")
  [[ "$cur" == -* ]] && words+=("$cur")
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o bashdefault -o default -F _chromogenic chromogenic
`

const zshCompletion = `#compdef chromogenic
_chromogenic() {
  local -a opts
  local cur="${words[CURRENT]}"
  if [[ "$cur" == -* ]]; then
    opts=("${(@f)$(${words[1,CURRENT-1]} ${cur} --generate-bash-completion 2>/dev/null)}")
  else
    opts=("${(@f)$(${words[1,CURRENT-1]} --generate-bash-completion 2>/dev/null)}")
  fi
  if [[ -n "${opts[1]}" ]]; then
    _describe values opts
  fi
  _files
}
compdef _chromogenic chromogenic
`

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print what makes a shell complete our commands",
		ArgsUsage: "bash|zsh|fish",
		Description: "bash: chromogenic completion bash > /etc/bash_completion.d/chromogenic\n" +
			"zsh: chromogenic completion zsh > /usr/local/share/zsh/site-functions/_chromogenic\n" +
			"fish: chromogenic completion fish > ~/.config/fish/completions/chromogenic.fish",
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 1, 1); err != nil {
				return err
			}
			script, err := completion(c.App, c.Args().First())
			if err != nil {
				return err
			}
			fmt.Fprint(c.App.Writer, script)
			return nil
		},
	}
}

func completion(app *cli.App, shell string) (string, error) {
	switch shell {
	case "bash":
		return bashCompletion, nil
	case "zsh":
		return zshCompletion, nil
	case "fish":
		script, err := app.ToFishCompletion()
		if err != nil {
			return "", fmt.Errorf("make completion: %w", err)
		}
		return strings.TrimRight(script, "\n") + "\n", nil
	}
	return "", usage("the shells are bash, zsh and fish", "unknown shell %q", shell)
}
