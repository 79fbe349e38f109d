/*
 * The sleep/notify protocol of one split virtqueue, with every barrier named.
 *
 * Two sides share memory. Each publishes into its own ring by storing an index, and each asks to be notified by storing an
 * event index (VIRTIO_F_EVENT_IDX; with -DFLAGS a flag). A side that finds nothing may spin with notifications off, then
 * arms, looks once more and sleeps. The question: can both sleep for ever while a request is outstanding?
 *
 *      side      publishes     looks at      asks for notification by     sleeps on
 *      DRIVER    avail->idx    used->idx     used_event (avail->flags)    the call
 *      DEVICE    used->idx     avail->idx    avail_event (used->flags)    the kick
 *
 * The barriers:
 *
 *      A  avail->idx: release store after the entry, acquire load before it
 *      B  used->idx: release store after the entry, acquire load before it
 *      C  driver's full fence between avail->idx store and avail_event load    pairs with D
 *      D  device's full fence between avail_event store and avail->idx load    pairs with C
 *      E  device's full fence between used->idx store and used_event load      pairs with F
 *      F  driver's full fence between used_event store and used->idx load      pairs with E
 *
 * Memory is x86-TSO: a store enters the side's own store buffer, a FIFO that leaves for memory one entry at a time at any
 * moment; a load reads memory; a full fence waits until the buffer is empty. No side reads back what it wrote, so there is
 * nothing to forward. With -DWEAK stores to different locations leave the buffer in any order and only a release waits for
 * those before it; then A and B matter as well, and each entry taken is checked to be the one that was published. Loads
 * stay in program order: the acquire halves are left to ThreadSanitizer. Ringing a doorbell is a release store here, which
 * is weaker than the lock inside write(2) on an eventfd.
 *
 * Each side is one thread with two tasks that switch only where they wait, as under trio: a waiter (the queue's task of the
 * server, the reaper of the driver) and a worker (a handler that finishes late, a submitter). What the worker has ready is
 * published by the waiter before it parks; while the waiter is parked, the worker publishes and notifies by itself.
 *
 * The submitter may stop at any moment and need not, so a run covers any number of requests and the indices wrap. Which
 * request a completion belongs to does not matter to the protocol, so requests have no identity.
 *
 * Mutilations. Each of these must lose a wakeup:
 *      -DNO_C -DNO_D -DNO_E -DNO_F    that fence is missing
 *      -DNO_REARM                     a waiter that spun in vain, notifications off, sleeps without arming again
 *      -DNO_RECHECK                   a waiter does not look between arming and sleeping
 *      -DNO_LATE                      a worker leaves publication to its waiter even while that is parked
 * and with -DWEAK each of these must hand over an entry that is not there yet:
 *      -DNO_A -DNO_B                  that index is stored without release
 */

#ifndef NO_A
#define NO_A 0
#endif
#ifndef NO_B
#define NO_B 0
#endif
#ifndef NO_C
#define NO_C 0
#endif
#ifndef NO_D
#define NO_D 0
#endif
#ifndef NO_E
#define NO_E 0
#endif
#ifndef NO_F
#define NO_F 0
#endif
#ifndef NO_REARM
#define NO_REARM 0
#endif
#ifndef NO_RECHECK
#define NO_RECHECK 0
#endif
#ifndef NO_LATE
#define NO_LATE 0
#endif

#define DRIVER  0
#define DEVICE  1
#define peer    (1 - me)

#define SIZE    2       /* entries of the ring */
#define WRAP    4       /* indices count modulo this: stands for 65536, and like it is at least twice the size */
#define NOTHING WRAP    /* no index */
#define DEPTH   4       /* of a store buffer; a full one makes its side wait */

mtype = { INDEX, EVENT, BELL, ENTRY }

/* Shared memory; [side] wrote it, except that bell[side] wakes side: the peer sets it, the sleeper takes it. */
byte index[2];
byte event[2];
bool bell[2];
byte entry[2 * SIZE] = NOTHING;      /* with -DWEAK: of avail, then of used; each holds the index it was published under */

chan buffer[2] = [DEPTH] of { mtype, byte }

/* Private to a side. */
byte next[2];           /* the index published last */
byte seen[2];           /* the peer's index up to which its ring was taken */
byte ready[2];          /* to be published: requests added (driver), requests finished (device) */
bool parked[2];         /* the waiter sleeps or is about to */
bool busy[2];           /* one of the two tasks has the thread */
byte held;              /* device: requests taken whose handler is suspended */
byte outstanding;       /* driver: requests added and not reaped */

#define minus(a, b)     (((a) + WRAP - (b)) % WRAP)
#define found           (index[peer] != seen[me])               /* A or B: acquire */
#define fence           (len(buffer[me]) == 0)
#define fence_C_or_E    (fence || (NO_C && me == DRIVER) || (NO_E && me == DEVICE))
#define fence_D_or_F    (fence || (NO_D && me == DEVICE) || (NO_F && me == DRIVER))
#define store           buffer[me] !
#define slot(side, i)   entry[side * SIZE + (i) % SIZE]

#ifdef WEAK
#define store_entry(i)  store ENTRY(i)
#define check_entry     assert(slot(peer, seen[me]) == seen[me])
#else
#define store_entry(i)  skip
#define check_entry     skip
#endif

#ifdef FLAGS
#define ARMED           0
#define DISARMED        1
#define wanted          (event[peer] == ARMED)
#else
#define ARMED           seen[me]
#define DISARMED        minus(seen[me], 1)                      /* the value that the peer reaches last */
#define wanted          (minus(next[me], event[peer] + 1) < added)      /* vring_need_event() */
#endif

/* Publish all that is ready by one store of the index. */
inline publish() {
    do
    :: added < ready[me] -> store_entry((next[me] + added) % WRAP); added++
    :: else -> break
    od;
    ready[me] = 0;
    next[me] = (next[me] + added) % WRAP;
    store INDEX(next[me])                                       /* A or B: release */
}

/* Ring if the peer asked to be told about one of the entries just published. */
inline notify() {
    fence_C_or_E;
    if
    :: wanted -> store BELL(0)
    :: else
    fi;
    added = 0
}

inline disarm() {
    store EVENT(DISARMED);
    quiet = true
}

/* Take one entry of the peer's ring. The device answers it at once or suspends its handler. */
inline take() {
    check_entry;
    seen[me] = (seen[me] + 1) % WRAP; quiet = false;
    if
    :: me == DRIVER -> outstanding--
    :: me == DEVICE -> ready[me]++
    :: me == DEVICE -> held++
    fi
}

proctype Waiter(bit me) {
    byte added;         /* entries published and not yet notified of */
    bool quiet;         /* notifications are off, and nothing was taken since */
    atomic { !busy[me] -> busy[me] = true };
    do
    :: atomic { found -> take() }
    :: atomic { !found && ready[me] > 0 -> publish() };
       atomic { notify() }

    /* Spin: the thread is given away, and after however many looks there is work or it goes on to park. */
    :: atomic { !found && ready[me] == 0 && !quiet -> disarm(); busy[me] = false };
       atomic { !busy[me] -> busy[me] = true }

    /* Park. */
    :: atomic { !found && ready[me] == 0 ->
           parked[me] = true;
           if
           :: NO_REARM && quiet
           :: else -> store EVENT(ARMED); quiet = false
           fi };
       if
       :: atomic { fence_D_or_F && found && !NO_RECHECK -> parked[me] = false; disarm() }
       :: atomic { fence_D_or_F && (!found || NO_RECHECK) -> busy[me] = false };
end_asleep:
          atomic { bell[me] && !busy[me] -> bell[me] = false; busy[me] = true; parked[me] = false; disarm() }
       fi
    od
}

/* The driver's other task: adds requests, one or two at a time. */
proctype Submitter() {
    byte added;
    bit me = DRIVER;
    do
    :: atomic { !busy[me] && outstanding < SIZE -> outstanding++; ready[me]++ }
    :: atomic { !busy[me] && ready[me] > 0 && parked[me] && !NO_LATE -> busy[me] = true; publish() };
       atomic { notify(); busy[me] = false }
    :: ready[me] == 0 || !parked[me] || NO_LATE -> break
    od
}

/* The device's other task: the handlers that finish late. */
proctype Handler() {
    byte added;
    bit me = DEVICE;
end_idle:
    do
    :: atomic { !busy[me] && held > 0 -> held--; ready[me]++ }
    :: atomic { !busy[me] && ready[me] > 0 && parked[me] && !NO_LATE -> busy[me] = true; publish() };
       atomic { notify(); busy[me] = false }
    od
}

/* The store buffer of one side: `?` takes the oldest store only, `??` the oldest of its location. */
proctype Buffer(bit me) {
    byte value;
end_empty:
    do
    :: atomic { buffer[me] ? INDEX(value) -> index[me] = value; value = 0 }
    :: atomic { buffer[me] ? EVENT(value) -> event[me] = value; value = 0 }
    :: atomic { buffer[me] ? BELL(value) -> bell[peer] = true }
#ifdef WEAK
    :: atomic { buffer[me] ?? ENTRY(value) -> slot(me, value) = value; value = 0 }
    :: atomic { buffer[me] ?? EVENT(value) -> event[me] = value; value = 0 }
#if NO_A || NO_B
    :: atomic { ((NO_A && me == DRIVER) || (NO_B && me == DEVICE)) && buffer[me] ?? [INDEX, value] ->
           buffer[me] ?? INDEX(value); index[me] = value; value = 0 }
#endif
#endif
    od
}

init {
    atomic {
        run Buffer(DRIVER); run Buffer(DEVICE);
        run Waiter(DRIVER); run Waiter(DEVICE);
        run Submitter(); run Handler()
    };
    timeout -> assert(outstanding == 0)     /* nobody can move any more: no request may be left */
}
