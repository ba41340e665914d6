// Package qmp is a client of the QEMU Machine Protocol, the JSON control
// channel of a running QEMU, over a Unix stream socket.
//
// # Commands
//
// Any number of goroutines may use one [Client]. Every command carries an id
// and replies are matched by it, so a slow command does not delay the reply of
// a faster one. Commands of one goroutine reach QEMU in the order in which they
// were issued. No lock is held while a reply is awaited.
//
// At most [InFlight] in-band commands are outstanding at QEMU. It reads no
// further than that ("QEMU Machine Protocol Specification", section 2.3.1), and
// an out-of-band command behind a ninth in-band one would not be read
// either. Further commands wait in this process, each as long as its context
// allows. A command given up by its caller keeps its place until QEMU answers.
//
// A context that ends gives up its own command and nothing else: a late reply is
// dropped. Unless the error is [ErrNotSent], QEMU may have executed the command or
// may yet do so.
//
// # Events
//
// One goroutine reads the connection. It hands over replies and events in the
// order in which QEMU wrote them: when a command returns, every event QEMU
// wrote before the reply is already in the queue of every [Subscription].
// Events are not lost, except that a subscriber that falls too far behind is
// told so ([ErrOverflow]) at the place of the first event it misses.
// QEMU sends no events of the past to a new client: subscribe first, then query.
//
// # Failure
//
// A broken line, a reply to a command never sent, a lost connection or a
// command written only in part ends the client. Every waiting command then returns an
// error that says why, [Client.Done] is closed and [Client.Err] tells the cause.
// There is no reconnection: a new connection has seen none of the events in
// between, and only the caller knows what to ask again.
//
// A monitor serves one connection at a time. A reply that QEMU still owed to the
// previous connection can arrive on the next; ids are unique to a client, so
// such a reply is recognised and dropped.
package qmp
