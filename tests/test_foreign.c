/*
 * threadecho from outside, in front of HTTP servers that are not ours: nginx,
 * plain and with TLS, and HAProxy between it and the upstream that misbehaves.
 * Their configurations, and the certificates, are made in a directory that is
 * gone afterwards.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* nftw, unshare */
#include "command.h"
#include "fixture.h"
#include "upstream_faults.h"

#include <curl/curl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* Bytes of the largest file, which is over any default limit. */
#define LARGE (2 << 20)

static char dir[64];                 /* for what the servers read and write */
static struct server_process *other; /* nginx or HAProxy */

/* Makes a file in the directory. */
static void write_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "we");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
}

static void make_directory(void)
{
    char path[80];
    snprintf(dir, sizeof dir, "/tmp/threadecho-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/static", dir);
    ck_assert_int_eq(mkdir(path, 0755), 0);
}

static int remove_entry(const char *path, const struct stat *status, int type,
                        struct FTW *where)
{
    (void)status;
    (void)type;
    (void)where;
    return remove(path);
}

static void remove_directory(void)
{
    ck_assert_int_eq(nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* Starts a server whose configuration, NAME.in, has PORT for the port. */
static struct server_process *start_other(const char *name,
                                          const char *command)
{
    return server_start(NULL,
                        "sh -c 'cd %s && sed s/PORT/{port}/ %s.in >%s && "
                        "PATH=$PATH:/usr/sbin exec %s'",
                        dir, name, name, command);
}

static void stop_other(void)
{
    server_stop(other);
    server_free(other);
}

/* Starts threadecho for scheme://host:PORT/path of that server. */
static struct server_process *start_for(const char *origin, const char *path,
                                        const char *more)
{
    return threadecho_start(NULL, "--upstream '%s:%s%s' %s", origin,
                            other->port, path, more);
}

/* One line through a threadecho of its own. */
static void expect(const char *origin, const char *path, const char *more,
                   const char *line, const char *reply)
{
    struct server_process *s = start_for(origin, path, more);
    struct client *c = client_open(s);
    for (int again = 0; again < 2; again++) {
        const char *got = client_ask(c, line);
        ck_assert_msg(strcmp(got, reply) == 0,
                      "%s%s %s, '%.80s': '%.200s', not '%.200s'", origin, path,
                      more, line, got, reply);
    }
    client_close(c);
    ck_assert_int_eq(server_stop(s), 0);
    server_free(s);
}

/*
 * nginx
 */

#define PLAIN "http://127.0.0.1"

/* One process that a SIGKILL ends for good, and nothing outside of its
 * directory. What /decode gets goes through nginx's own decoder: it asks
 * itself for /path/TEXT. */
static const char nginx_start[] =
    "daemon off;\n"
    "master_process off;\n"
    "pid nginx.pid;\n"
    "error_log stderr crit;\n"
    "events { worker_connections 256; }\n"
    "http {\n"
    "access_log off;\n"
    "client_body_temp_path temp; proxy_temp_path temp;\n"
    "fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;\n"
    "default_type text/plain;\n"
    "merge_slashes off;\n"
    "gzip on; gzip_min_length 0; gzip_types *; gzip_proxied any;\n";

static const char nginx_plain[] =
    "server {\n"
    "listen 127.0.0.1:PORT;\n"
    "keepalive_requests 3;\n"
    "location = /raw { return 200 '$arg_text\\n'; }\n"
    "location = /query { return 200 '$args'; }\n"
    "location = /decode {\n"
    "    proxy_pass http://127.0.0.1:PORT/path/$arg_text; }\n"
    "location ~ '(?s)^/path/(.*)$' { return 200 $1; }\n"
    "location = /connection { return 200 $connection; }\n"
    "location = /empty { return 200; }\n"
    "location = /status/204 { return 204; }\n"
    "location = /status/301 { return 301 /raw; }\n"
    "location = /status/302 { return 302 file:///etc/passwd; }\n"
    "location = /status/410 { return 410; }\n"
    "location = /status/500 { return 500; }\n"
    "location = /status/503 { return 503 'not now'; }\n"
    "location = /silent { return 444; }\n"
    "location = /dead { proxy_pass http://127.0.0.1:1; }\n"
    "location /static/ { root .; }\n"
    "location /chunked/ { alias static/; sub_filter_types *;\n"
    "    sub_filter line LINE; sub_filter_once off; }\n"
    "location /slow/ { alias static/; limit_rate 64; }\n"
    "}\n"
    /* Connections that go stale while the server is about to be asked. */
    "server {\n"
    "listen 127.0.0.2:PORT;\n"
    "keepalive_timeout 30ms;\n"
    "location / { return 200 $arg_text; }\n"
    "}\n";

static void start_nginx(const char *rest)
{
    size_t size = strlen(nginx_start) + strlen(rest) + 3;
    char *text = malloc(size);
    ck_assert_ptr_nonnull(text);
    snprintf(text, size, "%s%s}\n", nginx_start, rest);
    write_file("nginx.conf.in", text);
    free(text);
    other = start_other("nginx.conf", "nginx -p ./ -c nginx.conf");
}

static void set_up_plain(void)
{
    char *large = malloc(LARGE + 1);
    ck_assert_ptr_nonnull(large);
    make_directory();
    write_file("static/one.txt", "one line\n");
    write_file("static/lines.txt", "one line\r\ntwo lines\n\nthree lines\n");
    write_file("static/empty.txt", "");
    memset(large, 'x', LARGE);
    large[LARGE] = '\0';
    write_file("static/large.txt", large);
    free(large);
    start_nginx(nginx_plain);
}

static void tear_down_plain(void)
{
    stop_other();
    remove_directory();
}

static const struct {
    const char *path;
    const char *more;
    const char *line;
    const char *reply;
} answers[] = {
    /* What nginx sees of a line, and what it decodes it to. */
    {"/raw", "", "hello", "echo: hello"},
    {"/raw", "", "", "echo: "},
    {"/raw", "", "a b&c=d", "echo: a%20b%26c%3Dd"},
    {"/raw?text=first", "", "second", "echo: first"},
    {"/query?a=%20b&c#part", "", "d e", "echo: a=%20b&c&text=d%20e"},
    {"/decode", "", "hello world", "echo: hello world"},
    {"/decode", "", " ?&=#+;,/:@%%20\"'<>\\^`{|}~", /* as it is */
     "echo:  ?&=#+;,/:@%%20\"'<>\\^`{|}~"},
    {"/decode", "", "\xc3\xa9\xe2\x98\x83 \xff\xfe\x80",
     "echo: \xc3\xa9\xe2\x98\x83 \xff\xfe\x80"},
    {"/decode", "", "\x01\x1b\x7f\t", "echo: \x01\x1b\x7f\t"},
    {"/decode", "", "a\rb", "echo: a b"}, /* of the body, not of the line */
    /* Files. */
    {"/static/one.txt", "", "x", "echo: one line"},
    {"/static/lines.txt", "", "x", "echo: one line two lines three lines"},
    {"/static/empty.txt", "", "x", "echo: "},
    {"/static/large.txt", "", "x", "error: upstream body too large"},
    {"/static/large.txt", "--max-body 2097151", "x",
     "error: upstream body too large"},
    {"/static/none.txt", "", "x", "error: upstream returned 404"},
    {"/static/", "", "x", "error: upstream returned 403"},
    {"/chunked/lines.txt", "", "x", "echo: one LINE two LINEs three LINEs"},
    {"/chunked/large.txt", "", "x", "error: upstream body too large"},
    {"/slow/large.txt", "--max-body 2097152 --timeout 0.3", "x",
     "error: upstream timed out"},
    /* Statuses. */
    {"/empty", "", "x", "echo: "},
    {"/status/204", "", "x", "echo: "},
    {"/status/301", "", "x", "error: upstream returned 301"},
    {"/status/302", "", "x", "error: upstream returned 302"},
    {"/status/410", "", "x", "error: upstream returned 410"},
    {"/status/500", "", "x", "error: upstream returned 500"},
    {"/status/503", "", "x", "error: upstream returned 503"},
    {"/dead", "", "x", "error: upstream returned 502"},
    {"/silent", "", "x", "error: upstream closed early"},
};

START_TEST(test_nginx_answers)
{
    expect(PLAIN, answers[_i].path, answers[_i].more, answers[_i].line,
           answers[_i].reply);
}
END_TEST

START_TEST(test_nginx_answers_without_keepalive)
{
    char more[128];
    snprintf(more, sizeof more, "--no-keepalive %s", answers[_i].more);
    expect(PLAIN, answers[_i].path, more, answers[_i].line, answers[_i].reply);
}
END_TEST

START_TEST(test_large_file_arrives_whole)
{
    struct server_process *s =
        start_for(PLAIN, "/static/large.txt", "--max-body 2097152");
    struct client *c = client_open(s);
    const char *reply = client_ask(c, "x");
    ck_assert_uint_eq(c->line_len, LARGE + 6);
    ck_assert_uint_eq(strspn(reply + 6, "x"), LARGE);
    client_close(c);
    server_stop(s);
    server_free(s);
}
END_TEST

/* nginx takes 8 KiB of a request line and says 414 to more, as soon as it
 * knows, while the rest is still being sent. */
START_TEST(test_line_too_long_for_nginx_is_its_414)
{
    static char line[65537];
    static const size_t sizes[] = {9000, 20000, 65536};
    struct server_process *s = start_for(PLAIN, "/raw", "");
    struct client *c = client_open(s);

    for (int i = 0; i < COUNT(sizes); i++) {
        memset(line, ' ', sizes[i]); /* three bytes each, encoded */
        line[sizes[i]] = '\0';
        ck_assert_str_eq(client_ask(c, line), "error: upstream returned 414");
        ck_assert_str_eq(client_ask(c, "next"), "echo: next");
    }
    memset(line, 'a', sizeof line);
    line[8000] = '\0';
    ck_assert_str_eq(client_ask(c, line) + 6, line);
    client_close(c);
    server_stop(s);
    server_free(s);
}
END_TEST

/* It closes each connection at the third answer and says so there. */
START_TEST(test_connection_is_used_as_often_as_nginx_allows)
{
    struct server_process *s = start_for(PLAIN, "/connection", "");
    struct client *c = client_open(s);
    char last[64] = "";
    int changes = 0;

    for (int i = 0; i < 12; i++) {
        const char *reply = client_ask(c, "x");
        ck_assert_int_eq(strncmp(reply, "echo: ", 6), 0);
        if (strcmp(reply, last) != 0)
            changes++;
        snprintf(last, sizeof last, "%s", reply);
    }
    ck_assert_int_eq(changes, 4);
    client_close(c);
    server_stop(s);
    server_free(s);
}
END_TEST

/* It closes idle connections after 30 ms: requests go out just before, just
 * after and at that moment, more often than libcurl counts. */
START_TEST(test_connections_go_stale_unnoticed)
{
    struct server_process *s = start_for("http://127.0.0.2", "/", "");
    struct client *c = client_open(s);

    for (int i = 0; i < 60; i++) {
        let_pass(27 + i % 7);
        ck_assert_str_eq(client_ask(c, "hi"), "echo: hi");
    }
    client_close(c);
    server_stop(s);
    server_free(s);
}
END_TEST

/*
 * TLS
 */

/* Two authorities, and leaves: NAME ADDRESS DAYS AUTHORITY KEY... */
static const char make_certificates[] =
    "set -eu\n"
    "ec='ec -pkeyopt ec_paramgen_curve:P-256'\n"
    "for ca in ca other; do\n"
    "    openssl req -x509 -newkey $ec -nodes -keyout $ca.key -out $ca.pem "
    "\\\n"
    "        -subj \"/CN=test $ca\" -days 2\n"
    "done\n"
    "leaf() {\n"
    "    name=$1 address=$2 days=$3 ca=$4\n"
    "    shift 4\n"
    "    openssl req -newkey \"$@\" -nodes -keyout $name.key \\\n"
    "        -out $name.csr -subj /CN=$name\n"
    "    echo subjectAltName=IP:$address >$name.ext\n"
    "    openssl x509 -req -in $name.csr -CA $ca.pem -CAkey $ca.key \\\n"
    "        -CAcreateserial -days $days -extfile $name.ext -out $name.pem\n"
    "    cat $name.pem $name.key >$name.both\n"
    "}\n"
    "leaf good 127.0.0.2 2 ca $ec\n"
    "leaf rsa 127.0.0.3 2 ca rsa:2048\n"
    "leaf named 127.0.0.1 2 ca $ec\n"
    "leaf expired 127.0.0.5 -1 ca $ec\n"
    "leaf stranger 127.0.0.6 2 other $ec\n"
    "leaf old 127.0.0.8 2 ca $ec\n"
    "leaf wanting 127.0.0.9,IP:127.0.0.10 2 ca $ec\n"
    "openssl req -x509 -newkey $ec -nodes -keyout self.key -out self.pem \\\n"
    "    -subj /CN=self -addext subjectAltName=IP:127.0.0.7 -days 2\n"
    /* A system that trusts the first by its path, the other by its file. */
    "mkdir system\n"
    "cp ca.pem system/$(openssl x509 -hash -noout -in ca.pem).0\n"
    "cp other.pem system/ca-certificates.crt\n"
    "echo 'no certificate' >garbage.pem\n"
    ": >empty.pem\n";

/* Who listens with which certificate. */
static const struct {
    const char *address;
    const char *name;
    const char *more;
} tls_servers[] = {
    {"127.0.0.2", "good", ""},
    {"127.0.0.3", "rsa", ""},
    {"127.0.0.4", "named", ""}, /* for another address */
    {"127.0.0.5", "expired", ""},
    {"127.0.0.6", "stranger", ""},
    {"127.0.0.7", "self", ""},
    {"127.0.0.8", "old",
     "ssl_protocols TLSv1.1; ssl_ciphers DEFAULT@SECLEVEL=0;"},
};

static void set_up_certificates(void)
{
    make_directory();
    write_file("certificates", make_certificates);
    struct command *made = command_run("cd %s && sh certificates", dir);
    ck_assert_msg(made->status == 0, "%s", made->err);
    command_free(made);
}

static void set_up_tls(void)
{
    char text[4096];
    size_t len = (size_t)snprintf(
        text, sizeof text,
        "server { listen 127.0.0.1:PORT; location / { return 200 $arg_text; "
        "} }\n");

    for (int i = 0; i < COUNT(tls_servers); i++) {
        len += (size_t)snprintf(
            text + len, sizeof text - len,
            /* HTTP/2 for those who ask for it, as most servers have it. */
            "server { listen %s:PORT ssl http2; ssl_certificate %s.pem; "
            "ssl_certificate_key %s.key; %s\n"
            "location / { return 200 $arg_text; } }\n",
            tls_servers[i].address, tls_servers[i].name, tls_servers[i].name,
            tls_servers[i].more);
        ck_assert_uint_lt(len, sizeof text);
    }
    start_nginx(text);
}

#define CA "--cacert %s/ca.pem"
#define NOT_TRUSTED "error: upstream not trusted"
#define TLS_FAILED "error: upstream TLS failed"

static const struct {
    const char *origin;
    const char *more; /* %s is the directory */
    const char *reply;
} handshakes[] = {
    {"https://127.0.0.2", CA, "echo: hello"},
    {"https://127.0.0.2", CA " --no-keepalive", "echo: hello"},
    {"https://127.0.0.3", CA, "echo: hello"},
    {"https://127.0.0.3", CA " --stack-size 64", "echo: hello"},
    {"HTTPS://127.0.0.2", CA, "echo: hello"},
    /* No CA that signed it, another one, none at all. */
    {"https://127.0.0.2", "", NOT_TRUSTED},
    {"https://127.0.0.2", "--cacert %s/other.pem", NOT_TRUSTED},
    {"https://127.0.0.2", "--cacert %s/garbage.pem", NOT_TRUSTED},
    {"https://127.0.0.2", "--cacert %s/empty.pem", NOT_TRUSTED},
    /* Of another address, expired, of a stranger, of itself. */
    {"https://127.0.0.4", CA, NOT_TRUSTED},
    {"https://127.0.0.5", CA, NOT_TRUSTED},
    {"https://127.0.0.6", CA, NOT_TRUSTED},
    {"https://127.0.0.6", "--cacert %s/other.pem", "echo: hello"},
    {"https://127.0.0.7", CA, NOT_TRUSTED},
    {"https://127.0.0.7", "--cacert %s/self.pem", "echo: hello"},
    /* Not the same language. */
    {"https://127.0.0.8", CA, TLS_FAILED},
    {"https://127.0.0.1", CA, TLS_FAILED},
    {"http://127.0.0.2", CA, "error: upstream returned 400"},
    {"http://127.0.0.1", CA, "echo: hello"},
};

START_TEST(test_handshake_succeeds_or_says_why_not)
{
    char more[256];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(more, sizeof more, handshakes[_i].more, dir);
#pragma GCC diagnostic pop
    expect(handshakes[_i].origin, "/", more, "hello", handshakes[_i].reply);
}
END_TEST

/* Puts the directory "system" in the place of libcurl's CA path, for this test
 * and the servers that it starts. Returns NULL, or why that cannot be done. */
static const char *replace_ca_path(void)
{
    const char *path = curl_version_info(CURLVERSION_NOW)->capath;
    char system_path[80];

    snprintf(system_path, sizeof system_path, "%s/system", dir);
    if (path == NULL)
        return "libcurl has no CA path";
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount(system_path, path, NULL, MS_BIND, NULL) != 0)
        return "the CA path cannot be replaced";
    return NULL;
}

START_TEST(test_cacert_is_trusted_instead_of_the_system)
{
    char more[128];
    const char *error = replace_ca_path();

    if (error != NULL) {
        tell_skipped(error);
        return;
    }
    expect("https://127.0.0.2", "/", "", "hello", "echo: hello");
    snprintf(more, sizeof more, "--cacert %s/other.pem", dir);
    expect("https://127.0.0.2", "/", more, "hello", NOT_TRUSTED);
    expect("https://127.0.0.6", "/", more, "hello", "echo: hello");
}
END_TEST

START_TEST(test_many_clients_over_tls)
{
    enum { CLIENTS = 20, LINES = 10 };
    static const char *const hosts[] = {"https://127.0.0.2",
                                        "https://127.0.0.3"};
    struct client *clients[CLIENTS];
    char more[128];
    char line[32];
    char reply[48];

    snprintf(more, sizeof more, "--max-fetches 4 --cacert %s/ca.pem", dir);
    struct server_process *s = start_for(hosts[_i], "/", more);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_open(s);
    for (int n = 0; n < LINES; n++) {
        for (int i = 0; i < CLIENTS; i++) {
            snprintf(line, sizeof line, "%d-%d", n, i);
            client_say(clients[i], line);
        }
        for (int i = 0; i < CLIENTS; i++) {
            snprintf(reply, sizeof reply, "echo: %d-%d", n, i);
            ck_assert_str_eq(client_line(clients[i]), reply);
        }
    }
    for (int i = 0; i < CLIENTS; i++)
        client_close(clients[i]);
    ck_assert_int_eq(server_stop(s), 0);
    server_free(s);
}
END_TEST

/*
 * HAProxy
 */

/* As an HTTP server at 127.0.0.1, with less patience at 127.0.0.3, and at
 * 127.0.0.2 for TLS alone: there each byte of the rogue's is passed on. The
 * last two want a certificate of the client's, by TLS 1.2 and by 1.3. */
static const char haproxy_config[] =
    "defaults\n"
    "    timeout connect 5s\n"
    "    timeout client 60s\n"
    "    timeout server 60s\n"
    "listen http\n"
    "    mode http\n"
    "    timeout http-keep-alive 30ms\n"
    "    bind 127.0.0.1:PORT\n"
    "    server rogue 127.0.0.1:%d\n"
    "listen impatient\n"
    "    mode http\n"
    "    timeout server 500ms\n"
    "    bind 127.0.0.3:PORT\n"
    "    server rogue 127.0.0.1:%d\n"
    "listen tls\n"
    "    mode tcp\n"
    "    bind 127.0.0.2:PORT ssl crt good.both\n"
    "    bind 127.0.0.9:PORT ssl crt wanting.both ssl-max-ver TLSv1.2 "
    "verify required ca-file ca.pem\n"
    "    bind 127.0.0.10:PORT ssl crt wanting.both ssl-min-ver TLSv1.3 "
    "verify required ca-file ca.pem\n"
    "    server rogue 127.0.0.1:%d\n";

static void set_up_haproxy(void)
{
    char config[1024];
    start_upstream();
    snprintf(config, sizeof config, haproxy_config, rogue_port(upstream),
             rogue_port(upstream), rogue_port(upstream));
    write_file("haproxy.cfg.in", config);
    other = start_other("haproxy.cfg", "haproxy -db -f haproxy.cfg");
}

static void tear_down_haproxy(void)
{
    stop_upstream();
    if (other->pid > 0)
        ck_assert_int_eq(kill(other->pid, SIGKILL), 0);
    server_free(other);
}

/* What the rogue does, and what HAProxy makes of it in HTTP. */
static const struct {
    const char *line;
    const char *reply;
} behaviours[] = {
    {"hello", "echo: hello"},
    {"/chunked", "echo: /chunked"},
    {"/unsized", "echo: /unsized"},
    {"/close", "echo: /close"},
    {"/204", "echo: "},
    {"/status/404", "error: upstream returned 404"},
    {"/redirect-file/302", "error: upstream returned 302"},
    {"/empty-reply", "error: upstream returned 502"},
    {"/reset", "error: upstream returned 502"},
    {"/short", "error: upstream closed early"},
    {"/short-chunked", "error: upstream closed early"},
    {"/short-head", "error: upstream returned 502"},
    {"/reset-body", "error: upstream closed early"},
    {"/bad-chunk", "error: upstream returned 502"},
    {"/garbage", "error: upstream returned 502"},
    {"/headers", "error: upstream returned 502"},
    {"/header-line", "error: upstream returned 502"},
    {"/huge", "error: upstream body too large"},
    {"/huge-chunked", "error: upstream body too large"},
    {"/hang", "error: upstream returned 504"},
    {"/hang-body", "error: upstream closed early"},
};

START_TEST(test_haproxy_answers_for_the_rogue)
{
    const char *line = behaviours[_i].line;
    bool hangs = strncmp(line, "/hang", 5) == 0;
    expect(hangs ? "http://127.0.0.3" : PLAIN, "/text", "", line,
           behaviours[_i].reply);
}
END_TEST

START_TEST(test_rogue_is_the_same_over_tls)
{
    const struct upstream_fault *fault = &upstream_faults[_i];
    char more[128], reply[128];

    snprintf(more, sizeof more, "--timeout %s --cacert %s/ca.pem",
             fault_times_out(fault) ? "1" : "20", dir);
    expect("https://127.0.0.2", "/text", more, fault->path,
           fault_reply(fault, reply, sizeof reply));
}
END_TEST

/* With TLS 1.3 the handshake is over before the upstream can refuse. */
START_TEST(test_upstream_that_wants_a_certificate_is_a_tls_failure)
{
    static const char *const origins[] = {"https://127.0.0.9",
                                          "https://127.0.0.10"};
    char more[128];

    snprintf(more, sizeof more, "--cacert %s/ca.pem", dir);
    expect(origins[_i], "/text", more, "hello", TLS_FAILED);
}
END_TEST

/* 192 KiB of percent signs and digits: more than libcurl sends over TLS in
 * the two pieces that it is good for. */
START_TEST(test_longest_request_passes_over_tls)
{
    enum { LONGEST = 65536 };
    static char line[LONGEST + 1];
    static char reply[LONGEST + 7] = "echo: ";
    char more[128];

    memset(line, '\xe9', LONGEST);
    memcpy(reply + 6, line, LONGEST);
    snprintf(more, sizeof more, "--timeout 5 --cacert %s/ca.pem", dir);
    expect("https://127.0.0.2", "/text", more, line, reply);
    expect(PLAIN, "/text", "", "hello", "echo: hello");
}
END_TEST

START_TEST(test_haproxy_closes_idle_connections_unnoticed)
{
    struct server_process *s = start_for(PLAIN, "/text", "");
    struct client *c = client_open(s);
    for (int i = 0; i < 40; i++) {
        let_pass(27 + i % 7);
        ck_assert_str_eq(client_ask(c, "hi"), "echo: hi");
    }
    client_close(c);
    server_stop(s);
    server_free(s);
}
END_TEST

/* A TLS connection cut off without the notice that ends it: what came may be
 * all, or half, and so it is nothing. */
START_TEST(test_tls_connection_cut_off_is_no_answer)
{
    static const char *const paths[] = {"/hang", "/hang-body"};
    char more[128];
    long long deadline = now_ms() + PATIENCE_MS;

    snprintf(more, sizeof more, "--cacert %s/ca.pem", dir);
    struct server_process *s = start_for("https://127.0.0.2", "/text", more);
    struct client *c = client_open(s);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    client_say(c, paths[_i]);
    while (rogue_counts(upstream).requests < 2) {
        ck_assert_int_lt(now_ms(), deadline);
        let_pass(2);
    }
    ck_assert(!client_hears(c, 100)); /* the part of a body is there by now */
    ck_assert_int_eq(kill(other->pid, SIGKILL), 0);
    const char *reply = client_line(c);
    ck_assert_msg(strcmp(reply, "error: upstream closed early") == 0 ||
                      (_i == 0 && /* nothing came, so libcurl asked again */
                       (strcmp(reply, "error: upstream refused") == 0 ||
                        strcmp(reply, "error: upstream TLS failed") == 0)),
                  "%s", reply);
    client_close(c);
    server_stop(s);
    server_free(s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("foreign");

    TCase *plain =
        add_case_with(suite, "nginx", set_up_plain, tear_down_plain);
    tcase_add_loop_test(plain, test_nginx_answers, 0, COUNT(answers));
    tcase_add_loop_test(plain, test_nginx_answers_without_keepalive, 0,
                        COUNT(answers));
    tcase_add_test(plain, test_large_file_arrives_whole);
    tcase_add_test(plain, test_line_too_long_for_nginx_is_its_414);
    tcase_add_test(plain, test_connection_is_used_as_often_as_nginx_allows);
    tcase_add_test(plain, test_connections_go_stale_unnoticed);

    TCase *tls = add_case_with(suite, "tls", set_up_tls, stop_other);
    tcase_add_unchecked_fixture(tls, set_up_certificates, remove_directory);
    tcase_add_loop_test(tls, test_handshake_succeeds_or_says_why_not, 0,
                        COUNT(handshakes));
    tcase_add_test(tls, test_cacert_is_trusted_instead_of_the_system);
    tcase_add_loop_test(tls, test_many_clients_over_tls, 0, 2);

    TCase *proxied =
        add_case_with(suite, "haproxy", set_up_haproxy, tear_down_haproxy);
    tcase_add_unchecked_fixture(proxied, set_up_certificates,
                                remove_directory);
    tcase_add_loop_test(proxied, test_haproxy_answers_for_the_rogue, 0,
                        COUNT(behaviours));
    tcase_add_loop_test(proxied, test_rogue_is_the_same_over_tls, 0,
                        upstream_fault_count);
    tcase_add_loop_test(
        proxied, test_upstream_that_wants_a_certificate_is_a_tls_failure, 0,
        2);
    tcase_add_test(proxied, test_longest_request_passes_over_tls);
    tcase_add_test(proxied, test_haproxy_closes_idle_connections_unnoticed);
    tcase_add_loop_test(proxied, test_tls_connection_cut_off_is_no_answer, 0,
                        2);
    return run_suite(suite) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
