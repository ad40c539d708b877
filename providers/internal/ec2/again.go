package ec2

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"

	"chromogenic/disk"
	"chromogenic/providers"
)

// What makes or removes something may have been done although no answer came. Another
// try then meets what the first has made, and must take it for its own.

// made asks for an image until it is there, and gives its id. When another try finds the
// name taken, mine tells whether it is by what an earlier one has made.
func (c *Client) made(ctx context.Context, what, name string, mine func(Image) bool, ask func(context.Context) (*string, error)) (string, error) {
	id, doubt := "", false
	err := c.retry.Do(ctx, func(ctx context.Context) error {
		out, err := ask(ctx)
		if err = cause(ctx, err); err == nil {
			if id = aws.ToString(out); id == "" {
				return disk.Hint(disk.Errorf(disk.Unsupported, "the service answers without an id: nothing was made"),
					"the service has this action by name alone")
			}
			return nil
		}
		if !doubt {
			doubt = doubtful(err)
			return err
		}
		if disk.KindOf(err) == disk.Exists {
			if found := c.find(ctx, name, mine); found != "" {
				id = found
				return nil
			}
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	return id, nil
}

// find is the id of the one image of a name that is mine, empty where there is none. It
// asks once: it is a part of a try.
func (c *Client) find(ctx context.Context, name string, mine func(Image) bool) string {
	once := *c
	once.retry = providers.NewRetry(1, 1)
	list, err := once.Images(ctx, ImageFilter{Owners: []string{"self"}, Names: []string{name}})
	if err != nil {
		return ""
	}
	for _, i := range list {
		if i.Name == name && mine(i) {
			return i.ID
		}
	}
	return ""
}

// unmade asks for something to go until it is gone.
func (c *Client) unmade(ctx context.Context, what string, ask func(context.Context) error) error {
	doubt := false
	err := c.retry.Do(ctx, func(ctx context.Context) error {
		err := cause(ctx, ask(ctx))
		if doubt && disk.KindOf(err) == disk.NotFound {
			return nil
		}
		doubt = doubt || doubtful(err)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// doubtful tells whether what failed may have been done: the connection or the service
// broke down, rather than turn it away.
func doubtful(err error) bool {
	var t *providers.Transient
	return errors.As(err, &t) && !t.Throttled
}
