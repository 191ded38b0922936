// SPDX-License-Identifier: MIT

// goroutines.go: a goroutine per connection, which blocks in ReadLine, in the
// fetch and in Write; the runtime turns all waits into one epoll loop.
// Run: build/peers/goroutines --listen HOST:PORT --upstream URL
// [--no-keepalive]
// Keep in your head: what two goroutines share, because they run in parallel,
// and that net/http keeps two idle connections at most unless told otherwise.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"
)

const (
	maxLine      = 65536   // bytes, without CR and LF
	maxBody      = 1 << 20 // bytes of an upstream's answer
	fetchTimeout = 10 * time.Second
	sendTimeout  = 10 * time.Second
)

var (
	errLineTooLong = errors.New("line too long")
	errTooLarge    = errors.New("upstream body too large")
	lineBreaks     = regexp.MustCompile(`[\r\n]+`)
)

type statusError int

func (status statusError) Error() string {
	return fmt.Sprintf("upstream returned %d", int(status))
}

type lineReader struct {
	*bufio.Reader
	skipping bool // inside a line that was too long
}

// next returns a line, errLineTooLong, or the error that ends the input.
func (in *lineReader) next() ([]byte, error) {
	var line []byte
	for {
		part, more, err := in.ReadLine()
		switch {
		case err != nil && len(line) > 0:
			return line, nil
		case err != nil:
			return nil, err
		case in.skipping:
			in.skipping = more
			continue
		}
		line = append(line, part...)
		if len(line) > maxLine {
			in.skipping = more
			return nil, errLineTooLong
		}
		if !more {
			return line, nil
		}
	}
}

// A fetcher fetches from the upstream; any goroutine may use it.
type fetcher struct {
	client http.Client
	prefix string // URL?text=
}

func newFetcher(upstream string, keepalive bool) *fetcher {
	question := "?"
	if strings.Contains(upstream, "?") {
		question = "&"
	}
	return &fetcher{
		client: http.Client{
			Transport: &http.Transport{
				DisableCompression:     true,
				DisableKeepAlives:      !keepalive,
				MaxIdleConnsPerHost:    4096,
				MaxResponseHeaderBytes: 65536,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse
			},
			Timeout: fetchTimeout,
		},
		prefix: upstream + question + "text=",
	}
}

func (f *fetcher) fetch(line []byte) ([]byte, error) {
	text := url.QueryEscape(string(line))
	target := f.prefix + strings.ReplaceAll(text, "+", "%20")
	response, err := f.client.Get(target)
	if isCutOff(err) {
		f.client.CloseIdleConnections() // they are likely to be closed, too
		response, err = f.client.Get(target)
	}
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, statusError(response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = errTooLarge
	}
	return body, err
}

// isCutOff returns whether the upstream has closed the connection while a
// request was written, as a kept one may be. net/http asks again only if nothing
// was, and has the cause in the text alone.
func isCutOff(err error) bool {
	return err != nil && strings.Contains(err.Error(), "connection broken: write ")
}

// reason returns the reason that the client gets for an error.
func reason(err error) string {
	var (
		status  statusError
		network net.Error
		lookup  *net.DNSError
		socket  *net.OpError
	)
	switch {
	case err == errLineTooLong, err == errTooLarge, errors.As(err, &status):
		return err.Error()
	case errors.As(err, &network) && network.Timeout():
		return "upstream timed out"
	case errors.As(err, &lookup):
		return "upstream not found"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "upstream refused"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		isCutOff(err):
		return "upstream closed early"
	case errors.As(err, &socket):
		return "upstream failed"
	}
	return "upstream sent bad HTTP"
}

func echo(body []byte) []byte {
	body = lineBreaks.ReplaceAll(bytes.TrimRight(body, "\r\n"), []byte(" "))
	return append(append([]byte("echo: "), body...), '\n')
}

// serveConnection reads a line, fetches, writes, until the client has no more.
func serveConnection(client net.Conn, upstream *fetcher) {
	defer client.Close()
	in := lineReader{Reader: bufio.NewReader(client)}
	for {
		var body []byte
		line, err := in.next()
		if err != nil && err != errLineTooLong {
			return
		}
		if err == nil {
			body, err = upstream.fetch(line)
		}
		reply := echo(body)
		if err != nil {
			reply = []byte("error: " + reason(err) + "\n")
		}
		client.SetWriteDeadline(time.Now().Add(sendTimeout))
		if _, err := client.Write(reply); err != nil {
			return
		}
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`HOST:PORT`")
	upstream := flag.String("upstream", "http://127.0.0.1:8081/arrpi.php", "`URL`")
	fresh := flag.Bool("no-keepalive", false, "a new upstream connection per fetch")
	flag.Parse()

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, "goroutines:", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "goroutines: listening on", listener.Addr())
	fetcher := newFetcher(*upstream, !*fresh)
	for {
		client, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "goroutines:", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors: wait for one
			continue
		}
		go serveConnection(client, fetcher)
	}
}
