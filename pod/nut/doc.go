// Package nut is the detector that asks Network UPS Tools: a client of upsd, the server that a UPS is connected to.
//
// It speaks the line protocol of RFC 9271 over TCP and needs nothing of NUT on this host. It logs in, so that upsd counts
// this host among those the UPS feeds and upsmon's primary waits for it, up to the HOSTSYNC of upsmon.conf there, before
// it has the UPS switched off. Tested with upsd 2.8.0.
//
// # Keys
//
//	ups            NAME@HOST or NAME@HOST:PORT, as MONITOR in upsmon.conf has it. An IPv6 address with a port goes in
//	               brackets. Without @HOST: localhost. Without a port: 3493. Required.
//	user           A user of upsd.users there, with `upsmon secondary` (NUT before 2.8: `upsmon slave`).
//	               Empty: the watcher only listens, nobody waits for this host, and its health warns of that.
//	password_file  An absolute path. The first line is the user's password. Others than owner and group must not be able
//	               to read it. Read for each connection: a new password needs no restart. Required with user.
//	tls            "offered" (the default): encrypted if upsd offers it, without verifying who it is, which helps against
//	               eavesdroppers alone. "required": encrypted and verified, or not connected. "off": in clear.
//	ca_file        With "required": an absolute path to the certificates, in PEM form, of the authorities that may have
//	               signed upsd's; its own if it signed itself. Empty: those of the system. Read for each connection.
//	interval       How often upsd is asked, "100ms" to "30s"; default "1s". upsd learns of its UPS by the driver's own
//	               pollinterval, 2 s by default, which adds to this.
//
// # What is reported
//
// Each poll reads all variables at once, LIST VAR, so a report is of one instant. It is reported if it differs from the
// one before, however small the difference. ups.status, which may have several words, becomes, by the first line that applies:
//
//	FSD                        Going       the primary shuts down all hosts of this UPS, whatever the power does
//	OB and CAL or TEST, with   Mains       a test or calibration empties the battery though mains is there
//	  proof of mains
//	OB and LB                  LowBattery
//	OB and CAL or TEST, with   Mains       as upsmon has it
//	  no proof against it
//	OB                         OnBattery
//	OL or BYPASS               Mains       LB is no matter while it charges
//	anything else              Unknown     such as OFF or WAIT alone; the health warns
//
// A test or calibration is no outage, but it may hide one. What proves it is input.voltage against input.transfer.low, or
// against 80 % of input.voltage.nominal. A UPS that measures no input voltage proves nothing: then a battery that is low is
// low, whoever emptied it, and a save too many is cheaper than a save too few.
//
// Runtime is battery.runtime, in seconds there; Charge is battery.charge, in percent. Both are negative if the UPS does not
// tell or tells nonsense: not a number, negative, more than 30 days, more than 100 %. Detail is ups.status, word for word.
// RB, BYPASS, OFF, OVER, CAL, TEST and ups.alarm become warnings in the health.
//
// Done is set for LowBattery and Going while this host is logged in. Calling it logs out at once, so that the
// primary goes on without waiting longer. The watcher then listens on, without login, and logs in again when the UPS is
// neither low nor forced to shut down any more. A Done from before such a recovery does nothing.
//
// # What goes wrong
//
// Every error is in the health with its remedy, and a report of Unknown tells of each loss. Nothing is assumed of a UPS that has
// gone silent: whether one last seen on battery is now at its end is for the policy to decide.
//
//   - ERR DATA-STALE, ERR DRIVER-NOT-CONNECTED: upsd is there and its driver is not. Connection and login are kept; upsd is
//     asked on. upsd says so after MAXAGE (15 s by default) of silence.
//   - Anything else, such as a server that ends or does not answer within 5 s, ERR ACCESS-DENIED, ERR UNKNOWN-UPS, half a line, a line
//     over 4096 bytes, an answer to another question: the connection is closed and made anew after 250 ms, then after twice as long, up
//     to 5 s. A wrong password is noticed only at LOGIN, so it, too, shows as ERR ACCESS-DENIED.
//
// When Run ends the watcher logs out. If that does not succeed within 500 ms, the connection is closed all the same.
package nut
