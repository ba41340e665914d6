package nut

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// maxRows is how many rows of a list are accepted; a large UPS has some 300 variables.
const maxRows = 10_000

// client is a connection to upsd. One question at a time: upsd over NSS may leave a second line unread that has come
// in one TLS record with the first. After an error other than a Refusal it is of no use any more.
type client struct {
	conn    net.Conn
	lines   *bufio.Reader
	timeout time.Duration // for each question
}

func newClient(conn net.Conn, timeout time.Duration) *client {
	return &client{conn: conn, lines: newLines(conn), timeout: timeout}
}

func (c *client) close() { c.conn.Close() }

// bounded has what is read and written until release end with ctx, and after the timeout.
func (c *client) bounded(ctx context.Context) (release func()) {
	conn := c.conn                              // starttls puts another around it
	conn.SetDeadline(time.Now().Add(c.timeout)) // fails only on a closed connection, whose use fails as well
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-interrupted
		}
	}
}

// ask sends a command and returns the words of its one line of answer.
func (c *client) ask(ctx context.Context, command ...string) ([]string, error) {
	defer c.bounded(ctx)()
	if err := c.send(command); err != nil {
		return nil, err
	}
	return c.receive(command)
}

func (c *client) send(command []string) error {
	line, err := join(command)
	if err != nil {
		return fmt.Errorf("%s: %w", command[0], err)
	}
	if _, err := c.conn.Write([]byte(line)); err != nil {
		return fmt.Errorf("%s: %w", command[0], err)
	}
	return nil
}

// receive reads a line of the answer to a command. Words after the first are left out of errors: one is a password.
func (c *client) receive(command []string) ([]string, error) {
	line, err := readLine(c.lines)
	if err != nil {
		return nil, fmt.Errorf("answer to %s: %w", command[0], err)
	}
	words, err := split(line)
	switch {
	case err != nil:
		return nil, fmt.Errorf("answer to %s: %w: %w", command[0], errProtocol, err)
	case len(words) == 0:
		return nil, fmt.Errorf("answer to %s: %w: an empty line", command[0], errProtocol)
	case words[0] == "ERR" && len(words) > 1:
		return nil, fmt.Errorf("%s: %w", command[0], Refusal(words[1]))
	}
	return words, nil
}

// tell sends a command whose answer is OK, whatever follows it.
func (c *client) tell(ctx context.Context, command ...string) error {
	words, err := c.ask(ctx, command...)
	if err == nil && words[0] != "OK" {
		err = fmt.Errorf("answer to %s: %w: %.40q instead of OK", command[0], errProtocol, words[0])
	}
	return err
}

// list sends LIST and returns the rows between BEGIN and END, without the words that repeat the question.
func (c *client) list(ctx context.Context, of ...string) ([][]string, error) {
	defer c.bounded(ctx)()
	question := append([]string{"LIST"}, of...)
	if err := c.send(question); err != nil {
		return nil, err
	}
	words, err := c.receive(question)
	if err != nil {
		return nil, err
	}
	if !same(words, append([]string{"BEGIN"}, question...)) {
		return nil, fmt.Errorf("answer to LIST %s: %w: it begins with %.80q", of[0], errProtocol, words)
	}
	var rows [][]string
	for {
		words, err := c.receive(question)
		if err != nil {
			return nil, err
		}
		switch {
		case same(words, append([]string{"END"}, question...)):
			return rows, nil
		case len(words) <= len(of) || !same(words[:len(of)], of):
			return nil, fmt.Errorf("answer to LIST %s: %w: %.80q in between", of[0], errProtocol, words)
		case len(rows) == maxRows:
			return nil, fmt.Errorf("answer to LIST %s: %w: more than %d rows", of[0], errProtocol, maxRows)
		}
		rows = append(rows, words[len(of):])
	}
}

// same compares words as upsd does, which does not care for the case of names.
func same(a, b []string) bool { return slices.EqualFunc(a, b, strings.EqualFold) }

// names are those of the UPSes that upsd has.
func (c *client) names(ctx context.Context) ([]string, error) {
	rows, err := c.list(ctx, "UPS")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, row := range rows {
		names = append(names, row[0])
	}
	return names, nil
}

// variables are all of a UPS, as of one instant.
func (c *client) variables(ctx context.Context, ups string) (map[string]string, error) {
	rows, err := c.list(ctx, "VAR", ups)
	if err != nil {
		return nil, err
	}
	variables := make(map[string]string, len(rows))
	for _, row := range rows {
		if len(row) != 2 {
			return nil, fmt.Errorf("answer to LIST VAR: %w: %d words where a name and a value belong", errProtocol, len(row))
		}
		variables[row[0]] = row[1]
	}
	return variables, nil
}

// variable is one of a UPS.
func (c *client) variable(ctx context.Context, ups, name string) (string, error) {
	words, err := c.ask(ctx, "GET", "VAR", ups, name)
	if err != nil {
		return "", err
	}
	if len(words) != 4 || !same(words[:3], []string{"VAR", ups, name}) {
		return "", fmt.Errorf("answer to GET VAR: %w: %.80q", errProtocol, words)
	}
	return words[3], nil
}

// login makes upsd count this connection among the hosts that the UPS feeds. A wrong password is refused only here,
// by the last command.
func (c *client) login(ctx context.Context, user, password, ups string) error {
	for _, command := range [][]string{{"USERNAME", user}, {"PASSWORD", password}, {"LOGIN", ups}} {
		if err := c.tell(ctx, command...); err != nil {
			return err
		}
	}
	return nil
}

// logout tells upsd that the UPS may do without this host. upsd closes the connection.
func (c *client) logout(ctx context.Context) error { return c.tell(ctx, "LOGOUT") }
