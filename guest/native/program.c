/* The guest's program as machine code: what guest/bands.py, guest/pattern.py and guest/programs.py
 * say, one access at a time.
 *
 * The same bytes run in ring 3 of a virtual machine (`enter`) and as a C function in a thread
 * (`run`).  They lie anywhere, have no data of their own and call nobody.  guest/native/layout.py
 * has the same structs; guest/native/README.md tells how these bytes are made.
 *
 * A vCPU of a virtual machine is stopped between any two instructions, and goes on from there on
 * another host.  So what differs between hosts is read anew each time (volatile), a counter is
 * counted by one instruction (`count`), and a clock that changes while it is read is read again
 * (`now`).
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;
typedef unsigned __int128 u128;

/* Why `run` returns; bits, for several may come together. */
enum {
    PARKED = 1,     /* the run generation is even, or the last step is reached */
    WOKE = 2,       /* the kernel had stopped this vCPU at a page: `page`, `before`, `after` */
    MISMATCHED = 4, /* it read what must not be there: `page`, `expected`, `seen` */
    EARLY = 8,      /* the next access is not due before `due` */
    IDLE = 16,      /* nothing is left of a trace, or nobody has said what to touch */
    TOUCHED = 32,   /* what it was told to touch is touched: `page` */
    ABSENT = 64,    /* it looked first, and `page` is not there */
    CLOCK = 128     /* what was asked for: the time stamp counter, in `after` */
};

enum { BANDS = 0, TRACE = 1, SCRIPTED = 2 };

/* What a vCPU counts on the board, in the order of guest/board.py's VcpuCounters. */
enum { STEP, CHECKED, UNCHECKED, WRITES, MISMATCHES, BLACKOUT, STALL };

/* Of guest/latency.py. */
#define FINE_BITS 11
#define LATENCY_NS_MAX 3600000000000ul

struct band { u64 size, weight, start, rows, columns, key; };
struct block { u64 first_page, page_count, address; };
struct access { u64 page, version, is_write, time; };   /* time: ns, see guest/trace.py */

/* What a vCPU is to do, and where it finds what: made anew on each host, the guest only reads it. */
struct program {
    u64 vcpu, kind, page_count, ratio, share, is_sequential, is_scattered, is_image;
    u64 vcpu_key, slot_key, page_key, scatter_key, rows, columns;
    u64 period, access_count, interval, last_step;   /* interval: ns between accesses, << 20 */
    u64 is_timed;                                    /* accesses of a trace have their times */
    volatile u64 clock_version, clock_tsc, clock_ns, clock_scale;   /* ns = tsc * scale >> 32 */
    volatile u64 *volatile generation, *volatile kernel_logs, *volatile anywhere;
    volatile u64 *volatile words, *volatile bins;
    volatile u8 *volatile stopped, *volatile present, *volatile marks;   /* anywhere, present, marks: or 0 */
    const struct access *accesses;
    u64 schedule[64], earlier[64];
    struct band bands[48];
    struct block blocks[64];
    u64 template[512];
};

/* All of a vCPU that is not in its registers and on its stack; this crosses with them. */
struct state {
    u64 step, ended, due, start, first_step;          /* times in ns of the guest's clock */
    u64 page, before, after, expected, seen;          /* of the last access that was told of */
    u64 is_told, is_idle, asks_clock;
    u64 read_ns, read_version;                        /* the clock's last reading */
};

static inline u64 chain(u64 key, u64 word)
{
    u64 mixed = word * 0x9E3779B97F4A7C15ul + key;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9ul;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBul;
    return mixed ^ (mixed >> 31);
}

static inline u64 hash_half(u64 word, u64 key)
{
    u64 mixed = (word + key) * 0xBF58476D1CE4E5B9ul;
    mixed = (mixed ^ (mixed >> 32)) * 0x94D049BB133111EBul;
    return mixed >> 32;
}

static inline u64 permute(u64 cell, u64 size, u64 rows, u64 columns, u64 key)
{
    do {
        u64 row = cell / columns, column = cell % columns;
        row = (row + hash_half(column, key)) % rows;
        column = (column + hash_half(row, key >> 11)) % columns;
        row = (row + hash_half(column, key >> 22)) % rows;
        cell = row * columns + column;
    } while (cell >= size);
    return cell;
}

static inline u64 tsc(void)
{
    u32 low, high;
    __asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) :: "memory");
    return (u64)high << 32 | low;
}

/* Count by one instruction: it is done here or on the next host, and never on both. */
static inline void count(volatile u64 *counter)
{
    __asm__ volatile("incq %0" : "+m"(*counter) :: "memory");
}

/* Return the time in ns, and note how long it has not been looked at: the guest stood still. */
static inline u64 now(const struct program *p, struct state *s)
{
    u64 version, ns;
    do {
        version = p->clock_version;
        ns = p->clock_ns + (u64)(((u128)(tsc() - p->clock_tsc) * p->clock_scale) >> 32);
    } while (p->clock_version != version);
    u64 jump = ns - s->read_ns;
    if (version != s->read_version)
        p->words[BLACKOUT] = jump; /* the first look after it came here */
    else if (!s->is_idle && (long)jump > (long)p->words[STALL])
        p->words[STALL] = jump;
    s->is_idle = 0;
    s->read_version = version;
    s->read_ns = ns;
    return ns;
}

static inline void count_latency(const struct program *p, u64 ns)
{
    if ((long)ns < 0)
        ns = 0;
    if (ns > LATENCY_NS_MAX)
        ns = LATENCY_NS_MAX;
    u64 bits = ns ? 64 - __builtin_clzl(ns) : 0;
    u64 shift = bits > FINE_BITS ? bits - FINE_BITS : 0;
    count(&p->bins[(shift << (FINE_BITS - 1)) + (ns >> shift)]);
}

/* Where a step of a program of bands goes, and how often this vCPU was there before. */
static inline u64 visit(const struct program *p, u64 step, u64 *round)
{
    u64 period = step / p->period, place = step % p->period;
    const struct band *b = &p->bands[p->schedule[place]];
    u64 ordinal = period * b->weight + p->earlier[place];
    u64 index = ordinal % b->size;
    *round = ordinal / b->size;
    if (p->is_sequential)
        return (index + p->share) % b->size;
    u64 page = b->start + permute(index, b->size, b->rows, b->columns, chain(b->key, *round));
    return p->is_scattered ? permute(page, p->page_count, p->rows, p->columns, p->scatter_key) : page;
}

/* Make accesses until there is something to tell; return what. */
__attribute__((section(".text.run"), noinline, used))
u64 run(const struct program *p, struct state *s)
{
    u64 v = p->vcpu;
    if (s->asks_clock) {
        s->asks_clock = 0;
        s->after = tsc();
        return CLOCK;
    }
    if (!s->ended)
        s->ended = now(p, s);
    for (;;) {
        u64 step = s->step, due = s->ended, page, before, after;
        /* Who is to be stopped wherever he is goes on until he is kicked. */
        int is_wanted = (*p->generation & 1) || (p->anywhere && *p->anywhere);
        if (!is_wanted || step >= p->last_step)
            return PARKED;
        if (p->kind == SCRIPTED) {
            if (!s->is_told) {
                s->is_idle = 1;
                return IDLE;
            }
            page = s->page;
            before = after = 0;
            due = s->due;
        } else {
            if (p->kind == TRACE && step >= p->access_count) {
                s->is_idle = 1;
                return IDLE;
            }
            if (p->is_timed || p->interval) {
                /* As guest/programs.py's dues_ns: what is due begins anew where a vCPU does. */
                due = s->start;
                if (!p->is_timed)
                    due += (u64)(((u128)(step - s->first_step) * p->interval) >> 20);
                else
                    due += p->accesses[step].time
                         - (s->first_step ? p->accesses[s->first_step - 1].time : 0);
                if ((long)(due - now(p, s)) > 0) {
                    s->due = due;
                    s->is_idle = 1;
                    return EARLY;
                }
            }
            if (p->kind == TRACE) {
                const struct access *a = &p->accesses[step];
                page = a->page;
                before = a->version;
                after = before + a->is_write;
            } else {
                u64 round;
                page = visit(p, step, &round);
                u64 scaled = round * p->ratio + (chain(p->vcpu_key, page) >> 40);
                before = scaled >> 24;
                after = (scaled + p->ratio) >> 24;
            }
        }
        u64 key = chain(p->vcpu_key, page);
        u64 slot = (chain(p->slot_key, page) + v) % 64;
        u64 expected = before ? chain(key, before)
                              : p->template[slot * 8] + chain(p->page_key, page);
        const struct block *k = p->blocks;
        while (page - k->first_page >= k->page_count)
            k++;
        volatile u64 *word = (volatile u64 *)(k->address + ((page - k->first_page) << 12) + slot * 64);
        if (p->present && !p->present[page]) {
            s->page = page;
            return ABSENT;
        }
        u64 began = now(p, s);
        u64 seen = *word;
        if (after > before) {
            *word = chain(key, before + 1);
            /* After the write, never before it: see Board.harvest_dirty. */
            if (p->marks && !*p->kernel_logs)
                p->marks[page] = 1;
        }
        u64 ended = now(p, s);
        int is_known = before != 0 || !p->is_image;
        u64 told = p->kind == SCRIPTED ? TOUCHED : 0;
        count_latency(p, ended - due);
        count(&p->words[is_known ? CHECKED : UNCHECKED]);
        if (after > before)
            count(&p->words[WRITES]);
        if (is_known && seen != expected) {
            count(&p->words[MISMATCHES]);
            told |= MISMATCHED;
        }
        if (p->stopped[v]) {
            p->stopped[v] = 0;
            told |= WOKE;
        }
        /* The step is made when all else of it is: a compiler may not move this up. */
        __asm__ volatile("" ::: "memory");
        s->ended = ended;
        s->is_told = 0;
        s->step = step + 1;
        p->words[STEP] = step + 1;
        if (told) {
            s->page = page;
            s->before = began;
            s->after = ended;
            s->expected = expected;
            s->seen = seen;
            return told;
        }
    }
}

/* The time stamp counter, for the host. */
__attribute__((section(".text.counter"), noinline, used))
u64 counter(void)
{
    return tsc();
}

/* Where a vCPU begins.  rdi: program, rsi: state, rsp: stack, rbx: an address without memory, where
 * a write leaves the virtual machine. */
__attribute__((section(".text.enter"), naked, used))
void enter(void)
{
    __asm__ volatile(
        "mov %rdi, %r14\n"
        "mov %rsi, %r15\n"
        "1: mov %r14, %rdi\n"
        "mov %r15, %rsi\n"
        "call run\n"
        "mov %eax, (%rbx)\n"
        "jmp 1b\n");
}
