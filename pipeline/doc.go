// Package pipeline is the meeting room: the only place where providers,
// formats and the cleaner come together. It has two routes and no third.
//
// View is the route of a read: an entry of a provider, in the format asked
// for, as exact bytes. Copy is the route of a copy-in: one straight function
// from a source to an image that is registered and verified in another
// provider, or is not there.
//
// What is learned once of an immutable image (its allocation map, its digests)
// is kept in the State, by provider, id and version.
package pipeline
