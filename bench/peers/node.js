#!/usr/bin/env node
// SPDX-License-Identifier: MIT
//
// node.js: one thread and an event loop. What follows a wait is a closure,
// written where it is passed in, so the code reads in the order it runs.
// Run: node.js --listen HOST:PORT --upstream URL [--no-keepalive]
// Keep in your head: which events may come in between, that an error event
// without a listener ends the process, and that each step nests deeper.
'use strict';

const http = require('node:http');
const net = require('node:net');
const { parseArgs } = require('node:util');

const MAX_LINE = 65536; // bytes, without CR and LF
const MAX_BODY = 1024 * 1024; // bytes of an upstream's answer
const TIMEOUT = 10000; // milliseconds for one fetch
const BACKLOG = 4096;
const LF = 10;
const CR = 13;

const { values: options } = parseArgs({
  options: {
    listen: { type: 'string', default: '127.0.0.1:8080' },
    upstream: { type: 'string', default: 'http://127.0.0.1:8081/arrpi.php' },
    'no-keepalive': { type: 'boolean', default: false },
  },
});
const upstream = new URL(options.upstream);
const host = upstream.hostname.replace(/[[\]]/g, '');
const { port } = upstream;
const agent = new http.Agent({
  keepAlive: !options['no-keepalive'],
  maxFreeSockets: Infinity,
});

// Percent-encodes each byte that is not unreserved.
function encode(line) {
  return line.latin1Slice().replace(/[^A-Za-z0-9._~-]/g, (byte) =>
    '%' + byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0'));
}

// Cuts the input into lines. next() returns a line, null if it was too long,
// or undefined if more input is needed.
class Lines {
  held = Buffer.alloc(0);
  skipping = false;
  atEnd = false;

  push(chunk) {
    this.held = this.held.length ? Buffer.concat([this.held, chunk]) : chunk;
  }

  next() {
    const lf = this.held.indexOf(LF);
    let line = lf < 0 ? this.held : this.held.subarray(0, lf);
    const whole = lf >= 0 || (this.atEnd && line.length > 0);

    if (!whole && !this.skipping && line.length <= MAX_LINE + 1)
      return undefined;
    this.held = this.held.subarray(lf < 0 ? line.length : lf + 1);
    if (this.skipping) {
      this.skipping = !whole;
      return whole ? this.next() : undefined;
    }
    if (lf >= 0 && line.at(-1) === CR)
      line = line.subarray(0, -1);
    if (line.length <= MAX_LINE)
      return line;
    this.skipping = !whole;
    return null;
  }
}

// Returns the reply to a successful fetch, always one line.
function echo(body) {
  const lines = body.latin1Slice().replace(/[\r\n]+/g, '\n');
  return `echo: ${lines.replace(/\n$/, '').replaceAll('\n', ' ')}\n`;
}

// Returns the reason that the client gets for a failed fetch.
function reason({ code = '' }) {
  if (code === 'ECONNREFUSED')
    return 'upstream refused';
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN')
    return 'upstream not found';
  if (['ECONNRESET', 'EPIPE', 'HPE_INVALID_EOF_STATE'].includes(code))
    return 'upstream closed early';
  if (code.startsWith('HPE_'))
    return 'upstream sent bad HTTP';
  return 'upstream failed';
}

// Calls done(reply) once, whether the fetch succeeds or not.
function fetch(line, done) {
  const target = upstream.pathname + upstream.search +
    (upstream.search ? '&' : '?') + 'text=' + encode(line);
  let pending = true;

  const finish = (reply) => {
    clearTimeout(timer);
    if (pending)
      done(reply);
    pending = false;
  };
  const fail = (why) => {
    finish(`error: ${why}\n`);
    request.destroy();
  };
  const timer = setTimeout(fail, TIMEOUT, 'upstream timed out');
  const request = http.get({ agent, host, port, path: target }, (response) => {
    const chunks = [];
    let size = 0;

    if (response.statusCode < 200 || response.statusCode > 299)
      fail(`upstream returned ${response.statusCode}`);
    response.on('data', (chunk) => {
      chunks.push(chunk);
      size += chunk.length;
      if (size > MAX_BODY)
        fail('upstream body too large');
    });
    response.on('end', () => finish(echo(Buffer.concat(chunks))));
    response.on('error', (error) => fail(reason(error)));
  });
  request.on('error', (error) => {
    if (pending && request.reusedSocket && error.code === 'ECONNRESET') {
      clearTimeout(timer);
      pending = false;
      fetch(line, done); // the connection was closed while idle
    } else {
      fail(reason(error));
    }
  });
}

// Takes a line, fetches, writes, until the client has no more lines.
function serveConnection(client) {
  const lines = new Lines();
  let busy = false;

  const reply = (data) => client.write(data, 'latin1', advance);
  const advance = () => {
    const line = lines.next();

    busy = line !== undefined && !client.destroyed;
    if (busy && line === null)
      reply('error: line too long\n');
    else if (busy)
      fetch(line, reply);
    else if (lines.atEnd)
      client.end();
    else
      client.resume();
  };
  client.on('data', (chunk) => {
    lines.push(chunk);
    if (busy)
      client.pause(); // one line at a time
    else
      advance();
  });
  client.on('end', () => {
    lines.atEnd = true;
    if (!busy)
      advance();
  });
  client.on('error', () => client.destroy()); // it has gone
}

const [, listenHost, listenPort] = /^\[?(.*?)\]?:(\d+)$/.exec(options.listen);
const server = net.createServer({ allowHalfOpen: true, noDelay: true },
  serveConnection);
server.listen({ host: listenHost, port: listenPort, backlog: BACKLOG }, () => {
  const { address, family, port: bound } = server.address();
  console.error('node: listening on %s:%d',
    family === 'IPv6' ? `[${address}]` : address, bound);
});
