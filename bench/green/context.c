/*
 * context.c - from one stack to another, see context.h
 *
 * On x86-64 and aarch64 it is what the calling convention leaves to a function
 * to keep, and no more: seven to twenty-one registers, and no system call. The
 * C library's swapcontext sets the signal mask as well, in a system call each
 * time, and the carrier's mask is one for all coroutines. A library for these
 * few lines (there are Boost.Context and libucontext) would be one more
 * package to build with.
 *
 * A semaphore handed to and fro by two coroutines takes 40 to 50 ns per switch
 * here, 400 ns over swapcontext (CPPFLAGS=-DGREEN_UCONTEXT), and 2,000 ns by
 * two threads on one core; GCC 12, Linux 6.18.
 *
 * tests/bench_green passes with swapcontext, too. For aarch64 it was compiled
 * with GCC 12.2 and run under QEMU 7.2, not on such a machine: 60,000 switches
 * with all registers that are to be kept in use, integer and floating point,
 * and a rounding mode each, at -O0, -O2 and -O3; and all of green.so, under a
 * program with 50 threads, a socket and a mutex.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "context.h"
#include "calls.h"

#include <stdint.h>
#include <string.h>

#ifdef GREEN_UCONTEXT

void context_make(struct context *context, char *stack, size_t size,
                  void (*start)(void))
{
    /* cppcheck-suppress getcontextCalled */
    getcontext(&context->machine); /* cannot fail */
    context->machine.uc_stack.ss_sp = stack;
    context->machine.uc_stack.ss_size = size;
    context->machine.uc_link = NULL;
    /* cppcheck-suppress makecontextCalled */
    makecontext(&context->machine, start, 0);
}

void context_switch(struct context *from, struct context *to)
{
    /* The carrier's mask is not what it was when the other was left. */
    plain()->pthread_sigmask(SIG_SETMASK, NULL, &to->machine.uc_sigmask);
    /* cppcheck-suppress swapcontextCalled */
    swapcontext(&from->machine, &to->machine); /* nor can this */
}

#else

/* Saves the registers on this stack, and its pointer in *from; takes those
 * that the other stack has. */
void green_switch(void **from, void *to);

#ifdef __x86_64__

/* mxcsr and the x87 control word hold a program's rounding mode. */
__asm__(".text\n"
        ".p2align 4\n"
        ".globl green_switch\n"
        ".hidden green_switch\n"
        ".type green_switch, @function\n"
        "green_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    subq $8, %rsp\n"
        "    stmxcsr (%rsp)\n"
        "    fnstcw 4(%rsp)\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    ldmxcsr (%rsp)\n"
        "    fldcw 4(%rsp)\n"
        "    addq $8, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size green_switch, . - green_switch\n");

/* In words of a new stack, from where its pointer is. */
enum { CONTROL, RETURN = 7, CALLER, WORDS };

#else

/* fpcr holds the rounding mode. To write it is slow, so it is not done if it
 * is the same. */
__asm__(".text\n"
        ".p2align 4\n"
        ".globl green_switch\n"
        ".hidden green_switch\n"
        ".type green_switch, %function\n"
        "green_switch:\n"
        "    stp x29, x30, [sp, #-176]!\n"
        "    stp x19, x20, [sp, #16]\n"
        "    stp x21, x22, [sp, #32]\n"
        "    stp x23, x24, [sp, #48]\n"
        "    stp x25, x26, [sp, #64]\n"
        "    stp x27, x28, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n"
        "    stp d10, d11, [sp, #112]\n"
        "    stp d12, d13, [sp, #128]\n"
        "    stp d14, d15, [sp, #144]\n"
        "    mrs x10, fpcr\n"
        "    str x10, [sp, #160]\n"
        "    mov x9, sp\n"
        "    str x9, [x0]\n"
        "    mov sp, x1\n"
        "    ldr x9, [sp, #160]\n"
        "    cmp x9, x10\n"
        "    b.eq 1f\n"
        "    msr fpcr, x9\n"
        "1:\n"
        "    ldp x19, x20, [sp, #16]\n"
        "    ldp x21, x22, [sp, #32]\n"
        "    ldp x23, x24, [sp, #48]\n"
        "    ldp x25, x26, [sp, #64]\n"
        "    ldp x27, x28, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n"
        "    ldp d10, d11, [sp, #112]\n"
        "    ldp d12, d13, [sp, #128]\n"
        "    ldp d14, d15, [sp, #144]\n"
        "    ldp x29, x30, [sp], #176\n"
        "    ret\n"
        ".size green_switch, . - green_switch\n");

enum { RETURN = 1, CONTROL = 20, WORDS = 22 };

#endif

void context_make(struct context *context, char *stack, size_t size,
                  void (*start)(void))
{
    uintptr_t words[WORDS] = {0};
    char *top = stack + size - ((uintptr_t)stack + size) % 16;

    /* A thread starts with its creator's rounding mode, too. */
#ifdef __x86_64__
    /* The word above the return address is where start() would find its
     * caller. */
    uint32_t control[2] = {0};
    __asm__ volatile("stmxcsr %0" : "=m"(control[0]));
    __asm__ volatile("fnstcw %0" : "=m"(control[1]));
    memcpy(&words[CONTROL], control, sizeof control);
#else
    __asm__ volatile("mrs %0, fpcr" : "=r"(words[CONTROL]));
#endif
    words[RETURN] = (uintptr_t)start;
    context->stack_pointer = top - sizeof words;
    memcpy(context->stack_pointer, words, sizeof words);
}

void context_switch(struct context *from, struct context *to)
{
    green_switch(&from->stack_pointer, to->stack_pointer);
}

#endif
