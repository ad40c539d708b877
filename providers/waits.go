package providers

import "context"

type watchKey struct{}

// Watch gives a context by which a provider tells what it waits for. See gets the
// state of a thing in the cloud, in the cloud's word ("queued", "saving"), again and
// again, from the goroutine that was given the context.
func Watch(ctx context.Context, see func(state string)) context.Context {
	return context.WithValue(ctx, watchKey{}, see)
}

// Waits tells whoever watches what is waited for; it may be nobody.
func Waits(ctx context.Context, state string) {
	if see, ok := ctx.Value(watchKey{}).(func(string)); ok {
		see(state)
	}
}
