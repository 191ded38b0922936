/*
 * fortify.h - has the C library check the sizes of buffers as it fills them
 *
 * The compiler includes it ahead of each source, see HARDENING in the
 * Makefile. On the command line, the macro would bring warnings wherever there
 * is no optimisation, or where the distribution's flags define it too.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FORTIFY_H
#define FORTIFY_H

#ifdef __has_feature /* clang's */
#define FORTIFY_LACKS(sanitizer) !__has_feature(sanitizer)
#else
#define FORTIFY_LACKS(sanitizer) 1
#endif

/* Sanitizers check more, but only in the functions that they know. */
#if !defined _FORTIFY_SOURCE && defined __OPTIMIZE__ &&                       \
    !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__ &&          \
    FORTIFY_LACKS(address_sanitizer) && FORTIFY_LACKS(thread_sanitizer) &&    \
    FORTIFY_LACKS(memory_sanitizer)
#if defined __clang__ || __GNUC__ >= 12
#define _FORTIFY_SOURCE 3
#else
#define _FORTIFY_SOURCE 2
#endif
#endif

#undef FORTIFY_LACKS

#endif
