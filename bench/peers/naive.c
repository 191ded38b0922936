/*
 * naive.c - a thread per connection in sixty lines, as tutorials have it
 *
 * What docs/tour.md starts from: build/peers/naive PORT URL [--no-keepalive]
 * Keep in your head: all that can go wrong, for nothing in here looks for it.
 *
 * SPDX-License-Identifier: MIT
 */
#include <arpa/inet.h>
#include <curl/curl.h>
#include <err.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *url;
static long fresh; /* 1: a new upstream connection per fetch */

static void *serve_connection(void *arg)
{
    FILE *client = arg, *memory;
    CURL *curl = curl_easy_init();
    char line[1024], target[4096], *body, *text;
    size_t size;

    pthread_detach(pthread_self());
    curl_easy_setopt(curl, CURLOPT_FORBID_REUSE, fresh);
    while (fgets(line, sizeof line, client) != NULL) {
        line[strcspn(line, "\r\n")] = '\0';
        text = curl_easy_escape(curl, line, 0);
        snprintf(target, sizeof target, "%s?text=%s", url, text);
        memory = open_memstream(&body, &size);
        curl_easy_setopt(curl, CURLOPT_URL, target);
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, memory);
        CURLcode rc = curl_easy_perform(curl);
        fclose(memory);
        const char *error = rc == CURLE_OK ? NULL : curl_easy_strerror(rc);
        dprintf(fileno(client), "%s: %s\n", error ? "error" : "echo",
                error ? error : body);
        free(body);
        curl_free(text);
    }
    curl_easy_cleanup(curl);
    fclose(client);
    return NULL;
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    pthread_t thread;

    url = argv[2];
    fresh = argc > 3;
    curl_global_init(CURL_GLOBAL_ALL);
    address.sin_port = htons((in_port_t)strtol(argv[1], NULL, 10));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, SOMAXCONN) != 0)
        err(1, "cannot listen on port %s", argv[1]);
    fprintf(stderr, "naive: listening on 127.0.0.1:%s\n", argv[1]);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            err(1, "accept");
        pthread_create(&thread, NULL, serve_connection, fdopen(fd, "r"));
    }
}
