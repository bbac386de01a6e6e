/*
 * A QEMU TCG plugin that tells what a start's instructions go to, for tests/instructions.rs.
 *
 * It counts from an instruction that no other program has (START, made by launch.c just before it executes the monitor) to
 * the moment when the monitor hears that the guest's init rang the boot timer (END, a function of the guest's kernel).
 *
 * Each instruction is charged to the chain of functions under way. Calls are seen by the stack slots they write, which also
 * tell one thread's stack from another's; VMRUN and the instruction after it tell the guest from the host. From an exit to
 * the next entry the host works for the guest: that is charged to the guest's chain as well. What QEMU's clock skips while
 * the processor halts is waiting, and is charged to the deepest chain that waits.
 *
 * Lines come out: "run INSTRUCTIONS WAITED" and "WHAT COUNT ADDRESS ADDRESS...", a chain from its root, each function by
 * its first instruction, each user program by the pages of its code. WHAT is one of host, host-user, guest, guest-user, wait;
 * exit and exit-user, the host's work after an exit; exited, the same by the guest's chain.
 *
 * Declared here is what is used of QEMU's plugin interface, version 1.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*exec_cb)(unsigned, void *);
typedef void (*mem_cb)(unsigned, uint32_t, uint64_t, void *);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, exec_cb, int, void *);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, mem_cb, int, int, void *);
void qemu_plugin_register_atexit_cb(uint64_t, void (*)(uint64_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
enum { NO_REGS = 0, WRITES = 2 };

API int qemu_plugin_version = 1;

/* What an instruction is to the count. */
enum kind { PLAIN, CALL, RETURN, START, VMRUN, AFTER_VMRUN, END };
struct insn {
    uint64_t address;
    enum kind kind;
};

/* A chain of functions: the last one, and the chain before it. */
struct node {
    uint64_t address, count[3];
    struct node *parent, *child, *next;
};
/* Kernel stacks of the host and the guest: 16 KiB at multiples of as much (THREAD_SIZE, x86-64). */
enum { STACK_SHIFT = 14, DEPTH = 128, STACKS = 4096 };
struct stack {
    uint64_t id;
    int depth;
    bool guest;
    struct { uint64_t slot; struct node *node; } frame[DEPTH];
};

enum { HOST, GUEST, WAIT };
static struct node root[3];
static struct stack stacks[STACKS];
static struct stack *current[2];
static struct node user[2];
static bool counting, in_guest, in_exit, called, rang;
static uint64_t end_address, after_vmrun, skip, run_total, run_waited;
static const int64_t *bias;
static int64_t last_bias;
static FILE *out;

static struct node *child_of(struct node *node, uint64_t address)
{
    struct node **at = &node->child;
    for (; *at; at = &(*at)->next)
        if ((*at)->address == address) {
            struct node *found = *at;
            *at = found->next, found->next = node->child, node->child = found;
            return found;
        }
    struct node *fresh = calloc(1, sizeof *fresh);
    fresh->address = address, fresh->parent = node, fresh->next = node->child;
    return node->child = fresh;
}

static struct stack *stack_at(uint64_t slot)
{
    uint64_t id = slot >> STACK_SHIFT;
    for (size_t i = 0, h = (id ^ id >> 12) % STACKS; i < STACKS; i++, h = (h + 1) % STACKS) {
        struct stack *stack = &stacks[h];
        if (!stack->id)
            stack->id = id, stack->guest = in_guest;
        if (stack->id == id && stack->guest == in_guest)
            return stack;
    }
    fprintf(stderr, "split: more than %d stacks\n", STACKS);
    exit(1);
}

static uint64_t pending;

static void on_call(unsigned cpu, uint32_t info, uint64_t slot, void *data)
{
    (void)cpu, (void)info, (void)data;
    if (!counting || !(slot >> 63))
        return;
    struct stack *stack = stack_at(slot);
    /* Frames at or below the slot are gone, however they were left: the stack grows down. */
    while (stack->depth && stack->frame[stack->depth - 1].slot <= slot)
        stack->depth--;
    current[in_guest] = stack, pending = slot, called = true;
}

/* Waiting goes to the deepest of the host's stacks but the idle one: what the others wait for. */
static void idle(int64_t skipped)
{
    struct stack *deepest = NULL;
    run_waited += skipped;
    for (struct stack *stack = stacks; stack < stacks + STACKS; stack++)
        if (stack->id && !stack->guest && stack != current[HOST] && (!deepest || stack->depth > deepest->depth))
            deepest = stack;
    struct node *node = &root[WAIT];
    for (int i = 0; deepest && i < deepest->depth; i++)
        node = child_of(node, deepest->frame[i].node->address);
    node->count[0] += skipped;
}

static void begin(void)
{
    if (skip) {
        skip--;
        return;
    }
    memset(stacks, 0, sizeof stacks);
    current[0] = current[1] = NULL;
    counting = true, in_guest = in_exit = called = rang = false;
    run_total = run_waited = 0;
    last_bias = *bias;
}

static void finish(void)
{
    counting = false;
    fprintf(out, "run %" PRIu64 " %" PRIu64 "\n", run_total, run_waited);
}

/* The chain of functions that the host or the guest is executing. */
static struct node *top(bool guest)
{
    struct stack *stack = current[guest];
    return stack && stack->depth ? stack->frame[stack->depth - 1].node : &root[guest];
}

static void on_insn(unsigned cpu, void *data)
{
    const struct insn *insn = data;
    (void)cpu;
    if (!counting) {
        if (insn->kind == START)
            begin();
        return;
    }
    if (*bias != last_bias) {
        idle(*bias - last_bias);
        last_bias = *bias;
    }
    if (insn->address == after_vmrun && in_guest && insn->kind == AFTER_VMRUN)
        in_guest = false, in_exit = true, called = false;
    /* The guest has rung, and the monitor hears of it. */
    if (rang && !in_guest && !(insn->address >> 63))
        return finish();
    if (called) {
        called = false;
        struct stack *stack = current[in_guest];
        if (insn->address >> 63 && stack->depth < DEPTH) {
            struct node *parent = stack->depth ? stack->frame[stack->depth - 1].node : &root[in_guest];
            stack->frame[stack->depth].slot = pending;
            stack->frame[stack->depth++].node = child_of(parent, insn->address);
        }
    }
    run_total++;
    if (!(insn->address >> 63)) {
        child_of(&user[in_guest], insn->address & ~(uint64_t)0xfff)->count[in_exit]++;
    } else {
        top(in_guest)->count[in_exit]++;
    }
    if (in_exit)
        top(true)->count[2]++;
    if (insn->kind == RETURN && insn->address >> 63 && current[in_guest] && current[in_guest]->depth)
        current[in_guest]->depth--;
    else if (insn->kind == VMRUN)
        in_guest = true, in_exit = called = false;
    else if (insn->kind == END && in_guest)
        rang = true;
}

static enum kind kind_of(const uint8_t *code, size_t size, uint64_t address)
{
    static const uint8_t start[] = { 0x0f, 0x1f, 0x84, 0x00, 'S', 'P', 'L', 'T' }, vmrun[] = { 0x0f, 0x01, 0xd8 };
    size_t at = 0;
    if (size >= 8 && !memcmp(code, start, 8))
        return START;
    if (size == 3 && !memcmp(code, vmrun, 3))
        return VMRUN;
    if (address == end_address)
        return END;
    if (address == after_vmrun)
        return AFTER_VMRUN;
    while (at < size && (code[at] >> 4 == 4 || code[at] == 0xf2 || code[at] == 0xf3 || code[at] == 0x3e || code[at] == 0x2e))
        at++;
    if (at < size && code[at] == 0xe8)
        return CALL;
    if (at + 1 < size && code[at] == 0xff && (code[at + 1] >> 3 & 7) == 2)
        return CALL;
    if (at < size && (code[at] == 0xc3 || code[at] == 0xc2))
        return RETURN;
    return PLAIN;
}

static void on_translation(uint64_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        struct qemu_plugin_insn *from = qemu_plugin_tb_get_insn(tb, i);
        struct insn *insn = malloc(sizeof *insn);
        insn->address = qemu_plugin_insn_vaddr(from);
        insn->kind = kind_of(qemu_plugin_insn_data(from), qemu_plugin_insn_size(from), insn->address);
        if (insn->kind == VMRUN)
            after_vmrun = insn->address + 3;
        qemu_plugin_register_vcpu_insn_exec_cb(from, on_insn, NO_REGS, insn);
        if (insn->kind == CALL)
            qemu_plugin_register_vcpu_mem_cb(from, on_call, NO_REGS, WRITES, NULL);
    }
}

static void print(const char *who, int what, struct node *node, uint64_t *chain, int depth)
{
    if (node->parent)
        chain[depth++] = node->address;
    if (node->count[what]) {
        fprintf(out, "%s %" PRIu64, who, node->count[what]);
        for (int i = 0; i < depth; i++)
            fprintf(out, " %" PRIx64, chain[i]);
        fprintf(out, "\n");
    }
    for (struct node *child = node->child; child; child = child->next)
        print(who, what, child, chain, depth);
}

static void at_exit(uint64_t id, void *data)
{
    uint64_t chain[DEPTH + 1];
    (void)id, (void)data;
    print("host", 0, &root[0], chain, 0);
    print("exit", 1, &root[0], chain, 0);
    print("guest", 0, &root[1], chain, 0);
    print("exited", 2, &root[1], chain, 0);
    print("wait", 0, &root[WAIT], chain, 0);
    print("host-user", 0, &user[0], chain, 0);
    print("exit-user", 1, &user[0], chain, 0);
    print("guest-user", 0, &user[1], chain, 0);
    fclose(out);
}

API int qemu_plugin_install(uint64_t id, const void *info, int count, char **argument)
{
    (void)info;
    for (int i = 0; i < count; i++) {
        if (!strncmp(argument[i], "end=", 4))
            end_address = strtoull(argument[i] + 4, NULL, 16);
        else if (!strncmp(argument[i], "skip=", 5))
            skip = strtoull(argument[i] + 5, NULL, 10);
        else if (!strncmp(argument[i], "out=", 4))
            out = fopen(argument[i] + 4, "w");
    }
    /* QEMU's clock is instructions and this; TimersState.qemu_icount_bias in softmmu/timers-state.h, QEMU 7.2. */
    const char *timers = dlsym(RTLD_DEFAULT, "timers_state");
    if (!timers || !end_address || !out) {
        fprintf(stderr, "split: %s\n", timers ? "end= and out= are needed" : "this QEMU does not show its timers_state");
        return 1;
    }
    bias = (const int64_t *)(timers + 0x28);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
