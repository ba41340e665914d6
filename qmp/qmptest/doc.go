// Package qmptest is a fake QEMU monitor on a Unix socket, for tests of programs
// that speak the QEMU Machine Protocol. It behaves as QEMU does where clients
// notice, and misbehaves on demand where a real QEMU seldom does.
//
// A test says how commands are answered and then uses its client:
//
//	monitor := qmptest.Start(t)
//	monitor.Handle("query-status", func(json.RawMessage) (any, error) {
//		return map[string]any{"status": "running", "running": true}, nil
//	})
//	client, err := qmp.Dial(ctx, monitor.Path())
//
// or takes them one by one, in the order that suits the test:
//
//	monitor.Hold("stop", "migrate")
//	go client.Execute(ctx, "stop", nil, nil)
//	stop := monitor.Take(ctx)
//	monitor.Emit("STOP", nil)
//	stop.Reply(nil)
//
// As with QEMU: messages are spaced as QEMU spaces them; one connection is served at a time and others wait for their greeting;
// before qmp_capabilities other commands are refused and no events are sent; in-band
// commands execute one after the other and out-of-band ones at once; no more than
// [ReadAhead] in-band commands are taken on before one is done if out-of-band execution is
// enabled, one otherwise; of the descriptors received, only the last is kept until
// a command wants it. QEMU may crash when it reads one byte more, be it a newline, while a command takes the descriptor that came
// with it (tcp_chr_recv in its chardev/char-socket.c, seen with 7.2); this one always does.
//
// A [Machine] has a guest besides, which is stopped, dumped and continued.
//
// On demand: no greeting ([WithGreeting]), no answer or a late one ([Server.Hold]), no
// reading ([Server.Stall]), any bytes at all, such as half a line ([Server.Write]), and
// sudden death ([Server.Hangup], [Server.Die]).
//
// All methods may be called by any number of goroutines. The server, its goroutines
// and files end with the test.
package qmptest
