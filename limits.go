package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"chromogenic/pipeline"
)

// parseRate takes a rate in bytes a second: one for both directions, or SEND:READ;
// "off" or 0 is none.
func parseRate(text string) (pipeline.Rate, error) {
	send, read, two := strings.Cut(text, ":")
	if !two {
		read = send
	}
	var r pipeline.Rate
	for _, way := range []struct {
		text string
		to   *int64
	}{{send, &r.Send}, {read, &r.Read}} {
		n, err := parseLimit(way.text)
		if err != nil {
			return pipeline.Rate{}, fmt.Errorf("%q is not a rate in bytes a second, such as 10M, 10M:1M (sent and read) or off", text)
		}
		*way.to = n
	}
	return r, nil
}

// parseBudget takes a size, which may be followed by / and a period, a day if none is
// named; "off" or 0 is none.
func parseBudget(text string) (pipeline.Budget, error) {
	size, per, named := strings.Cut(text, "/")
	b := pipeline.Budget{Per: pipeline.PerDay}
	if named {
		b.Per = pipeline.Period(strings.ToLower(strings.TrimSpace(per)))
	}
	n, err := parseLimit(size)
	if err != nil || !slices.Contains(pipeline.Periods(), b.Per) {
		return pipeline.Budget{}, fmt.Errorf("%q is not a budget such as 100G/day, 5G/hour, 2T/month or off", text)
	}
	if n == 0 {
		return pipeline.Budget{}, nil
	}
	b.Bytes = n
	return b, nil
}

// parseLimit takes a size, 0 for "off".
func parseLimit(text string) (int64, error) {
	if strings.EqualFold(strings.TrimSpace(text), "off") {
		return 0, nil
	}
	return parseSize(text)
}

// limitFlags are those of a command that copies from or to a provider.
func limitFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "bwlimit", Usage: "send and read at most `RATE` bytes a second, within the limits of the configuration: 10M, or 10M:1M for sending and reading"},
		&cli.BoolFlag{Name: "over-budget", Usage: "read on when the read budget of the source is used up; it is counted all the same"},
	}
}

// rateOf is what --bwlimit says.
func rateOf(c *cli.Context) (pipeline.Rate, error) {
	text := c.String("bwlimit")
	if text == "" {
		return pipeline.Rate{}, nil
	}
	r, err := parseRate(text)
	if err != nil {
		return r, usage("", "--bwlimit: %v", err)
	}
	return r, nil
}

// limits are those of all providers together.
func (c *config) limits() pipeline.Limits {
	return pipeline.Limits{Rate: &c.BWLimit, Budget: &c.ReadBudget}
}

// unlimited is the same without limits, whoever names it.
func (p providerConfig) unlimited() providerConfig {
	p.BWLimit, p.ReadBudget, p.Found = nil, nil, false
	return p
}
