/*
 * The user and the password in the upstream's URL: sent to the upstream, and
 * never logged, whatever is wrong with the URL or its place on the command
 * line.
 *
 * SPDX-License-Identifier: MIT
 */
#include "command.h"
#include "fixture.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* No message has these words for another reason. */
static const char *const secrets[] = {"Joe7", "Pw1", "Pw2"};
#define LOGIN "Joe7:Pw1"
#define LOGIN_ENCODED "Sm9lNzpQdzE=" /* in base64 */

static void check_no_secret(const char *text)
{
    for (size_t i = 0; i < COUNT(secrets); i++)
        ck_assert_msg(strstr(text, secrets[i]) == NULL, "%s", text);
}

START_TEST(test_credentials_are_sent_and_not_logged)
{
    struct server_process *s =
        threadecho_start(NULL,
                         "--verbose --timeout 0.5 --upstream http://" LOGIN
                         "@127.0.0.1:%d/text",
                         rogue_port(upstream));
    struct client *c = client_open(s);
    static const char *const lines[] = {"hello", "/status/401", "/short",
                                        "/garbage", "/hang"};

    for (size_t i = 0; i < COUNT(lines); i++)
        client_ask(c, lines[i]);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    for (unsigned long i = 0; i < rogue_counts(upstream).requests; i++) {
        char *head = rogue_request(upstream, i);
        ck_assert_ptr_nonnull(
            strstr(head, "Authorization: Basic " LOGIN_ENCODED "\r\n"));
        free(head);
    }
    client_close(c);
    free(server_summary(s));
    ck_assert_int_eq(server_stop(s), 0);
    char *log = server_log(s);
    ck_assert_ptr_nonnull(strstr(log, ", upstream http://127.0.0.1:"));
    check_no_secret(log);
    free(log);
    server_free(s);
}
END_TEST

static const struct {
    const char *arguments;
    const char *says; /* so that it is refused for the right reason */
} refusals[] = {
    /* URLs that libcurl does not take, or that the server does not. */
    {"--upstream http://" LOGIN "@host:99999/", "http://***@host:99999/"},
    {"--upstream http://" LOGIN "/Pw2@host/", "http://***@host/"},
    {"--upstream http://" LOGIN "@Pw2@host:x/", "http://***@host:x/"},
    {"--upstream 'http://" LOGIN "@ho st/'", "http://***@ho st/"},
    {"--upstream 'http://" LOGIN " Pw2@host/'", "http://***@host/"},
    {"--upstream 'http://" LOGIN "?Pw2@host/'", "http://***@host/"},
    {"--upstream 'http://" LOGIN "#Pw2@host:x/'", "http://***@host:x/"},
    {"--upstream " LOGIN "@host/", "***@host/"},
    {"--upstream //" LOGIN "@host/", "***@host/"},
    {"--upstream ftp://" LOGIN "@host/", "ftp://***@host/"},
    {"--upstream=http://" LOGIN "=Pw2@host:x/", "http://***@host:x/"},
    {"-uhttp://" LOGIN "@host:x/", "http://***@host:x/"},
    {"--upstream http://" LOGIN "@h\xc3\xb6st/", "not ASCII"},
    /* Longer than what a message repeats. */
    {"--upstream http://" LOGIN "$(printf %300s | tr ' ' x)Pw2@host:x/",
     "http://***@host:x/"},
    /* URLs where none belongs. */
    {"http://" LOGIN "@host/", "http://***@host/"},
    {"--echo http://" LOGIN "@host/", "http://***@host/"},
    {LOGIN "@host/", "***@host/"},
    {"-- http://" LOGIN "@host/", "http://***@host/"},
    {"--listen http://" LOGIN "@host:80", "--listen"},
    {"--timeout http://" LOGIN "@host/", "--timeout"},
    {"--max-line=http://" LOGIN "@host/", "--max-line"},
    /* Options that there are not, or that take nothing. */
    {"--url=http://" LOGIN "@host/", "'--url'"},
    {"--echo=http://" LOGIN "@host/", "'--echo'"},
    {"--max=http://" LOGIN "@host/", "'--max'"},
    {"--upstreamhttp://" LOGIN "@host/", "--upstreamhttp://***@host/"},
    {"--http://" LOGIN "=Pw2@host/", "--http://***@host/"},
    {"-xhttp://" LOGIN "@host/", "'x'"},
};

START_TEST(test_refusal_hides_credentials)
{
    struct command *run =
        command_run("%s %s", threadecho(), refusals[_i].arguments);

    ck_assert_int_ge(run->status, 1);
    ck_assert_int_le(run->status, 2);
    ck_assert_msg(strstr(run->err, refusals[_i].says) != NULL, "%s", run->err);
    check_no_secret(run->err);
    ck_assert_str_eq(run->out, "");
    command_free(run);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("credentials");
    TCase *tcase = add_case(suite, "credentials");

    tcase_add_test(tcase, test_credentials_are_sent_and_not_logged);
    tcase_add_loop_test(tcase, test_refusal_hides_credentials, 0,
                        COUNT(refusals));
    return run_suite(suite) == 0 ? 0 : 1;
}
