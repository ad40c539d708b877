// Package control is how a command asks the process that owns the state
// directory. A mount serves a unix socket in that directory (Serve); a command
// finds it there (Dial), or else opens the state itself (Local). Both are a
// Service, so that a command need not know which it has.
//
// The socket speaks HTTP with JSON, so that curl --unix-socket can ask too:
//
//	GET  /status            Status
//	GET  /jobs              the records, the oldest first
//	GET  /jobs/{id}         one record; the id may be cut short
//	GET  /jobs/{id}/wait    the record when the job does not run any longer
//	POST /jobs/{id}/cancel  the record when what it had made is gone
//	POST /jobs/{id}/resume  {"until": STAGE}; a stream
//	POST /copy              Request; a stream
//	POST /capture           CaptureRequest; a stream
//	POST /refresh           {"site": NAME}, all without
//	POST /gc                pipeline.GCOptions; []pipeline.Leftover
//	GET  /metrics           for Prometheus
//
// A stream is lines of {"progress": …}, a few in a second, and a last one of
// {"record": …, "error": …}. Who goes away from a copy cancels it, from a job that
// is resumed suspends it. An error is {"error": {kind, code, message, request_id,
// hint}}, with a status that says the same coarsely.
package control
