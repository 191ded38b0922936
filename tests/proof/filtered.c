/*
 * filtered.c - runs a program under the limits of a systemd unit
 *
 * For machines where systemd does not run, as it would do it:
 *     filtered RULES PROGRAM [ARGUMENT]...
 * RULES is a file of lines: "descriptors N", their limit; "capabilities 0", to
 * drop all; "family N", an address family, and "call NAME", a system call,
 * that are allowed. Any other call kills the process, any other family is
 * EAFNOSUPPORT. As with MemoryDenyWriteExecute=, RestrictRealtime=,
 * RestrictNamespaces= and NoNewPrivileges=, there is no memory for new code,
 * no realtime, no namespace and no privilege to gain.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* CLONE_NEWNS and so on, SCHED_BATCH */
#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Calls that fail with an error; all others are allowed. */
static scmp_filter_ctx refused;

/* Calls that are allowed; all others kill the process. */
static scmp_filter_ctx allowed;

static bool families[AF_MAX];

static _Noreturn void give_up(const char *what, int error)
{
    fprintf(stderr, "filtered: %s: %s\n", what, strerror(error));
    exit(125);
}

/* Adds a rule for the calls whose argument compares so. A call that this
 * machine does not have needs no rule. */
static void refuse(int error, const char *name, struct scmp_arg_cmp argument)
{
    int rc = seccomp_rule_add_array(refused, SCMP_ACT_ERRNO((uint32_t)error),
                                    seccomp_syscall_resolve_name(name), 1,
                                    &argument);
    if (rc != 0 && rc != -EDOM)
        give_up(name, -rc);
}

static void allow(const char *name)
{
    int number = seccomp_syscall_resolve_name(name);

    if (number == __NR_SCMP_ERROR)
        return; /* known to a later libseccomp only */
    int rc = seccomp_rule_add(allowed, SCMP_ACT_ALLOW, number, 0);
    if (rc != 0 && rc != -EDOM)
        give_up(name, -rc);
}

/* Lowers the limit, unless it is low already. */
static void limit_descriptors(rlim_t most)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        give_up("descriptors", errno);
    if (limit.rlim_max > most)
        limit.rlim_max = most;
    if (limit.rlim_cur > limit.rlim_max)
        limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        give_up("descriptors", errno);
}

static void read_rules(const char *path)
{
    char line[128];
    FILE *file = fopen(path, "re");

    if (file == NULL)
        give_up(path, errno);
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *value = strchr(line, ' ');
        if (value == NULL)
            give_up(line, EINVAL);
        *value++ = '\0';
        unsigned long number = strtoul(value, NULL, 10);
        if (strcmp(line, "call") == 0)
            allow(value);
        else if (strcmp(line, "family") == 0 && number < AF_MAX)
            families[number] = true;
        else if (strcmp(line, "descriptors") == 0 && number > 0)
            limit_descriptors(number);
        else
            give_up(line, EINVAL);
    }
    if (ferror(file) || fclose(file) != 0)
        give_up(path, EIO);
}

static void refuse_families(void)
{
    for (unsigned family = 0; family < AF_MAX; family++)
        if (!families[family])
            refuse(EAFNOSUPPORT, "socket", SCMP_A0(SCMP_CMP_EQ, family));
    refuse(EAFNOSUPPORT, "socket", SCMP_A0(SCMP_CMP_GE, AF_MAX));
}

static void refuse_new_code(void)
{
    const scmp_datum_t both = PROT_WRITE | PROT_EXEC;

    refuse(EPERM, "mmap", SCMP_A2(SCMP_CMP_MASKED_EQ, both, both));
    refuse(EPERM, "mmap2", SCMP_A2(SCMP_CMP_MASKED_EQ, both, both));
    refuse(EPERM, "mprotect",
           SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, PROT_EXEC));
}

/* What clone3 is asked for cannot be seen here, so the C library is told to
 * use clone. */
static void refuse_namespaces(void)
{
    static const scmp_datum_t kinds[] = {
        CLONE_NEWCGROUP, CLONE_NEWIPC,  CLONE_NEWNET, CLONE_NEWNS,
        CLONE_NEWPID,    CLONE_NEWUSER, CLONE_NEWUTS,
    };

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        refuse(EPERM, "clone",
               SCMP_A0(SCMP_CMP_MASKED_EQ, kinds[i], kinds[i]));
    refuse(ENOSYS, "clone3", SCMP_A0(SCMP_CMP_GE, 0));
}

static void refuse_realtime(void)
{
    refuse(EPERM, "sched_setscheduler", SCMP_A1(SCMP_CMP_EQ, SCHED_FIFO));
    refuse(EPERM, "sched_setscheduler", SCMP_A1(SCMP_CMP_EQ, SCHED_RR));
    refuse(EPERM, "sched_setscheduler", SCMP_A1(SCMP_CMP_GT, SCHED_IDLE));
}

/* What is dropped here is not regained by the program, even if root runs it.
 */
static void drop_capabilities(void)
{
    for (unsigned long capability = 0;
         prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 && geteuid() == 0)
            give_up("capabilities", errno);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fputs("usage: filtered RULES PROGRAM [ARGUMENT]...\n", stderr);
        return 125;
    }
    refused = seccomp_init(SCMP_ACT_ALLOW);
    allowed = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (refused == NULL || allowed == NULL)
        give_up("seccomp", ENOMEM);
    read_rules(argv[1]);
    refuse_families();
    refuse_new_code();
    refuse_namespaces();
    refuse_realtime();
    drop_capabilities();

    /* Each sets "no new privileges" as well. After the second, no third. */
    int rc = seccomp_load(refused);
    if (rc == 0)
        rc = seccomp_load(allowed);
    if (rc != 0)
        give_up("seccomp", -rc);
    execv(argv[2], argv + 2);
    give_up(argv[2], errno);
}
