/*
 * A doorbell that is changed while it is rung. Two driver threads submit and kick; a host changes the
 * doorbell again and again, and may give up before the driver has moved. Can a request be left while nobody can move any more,
 * or a doorbell be rung that is gone?
 *
 * The barriers between publishing and arming are notify.pml's business, so memory is sequentially consistent here.
 *
 * Mutilations. Each of these must lose a wakeup:
 *      -DNO_CHECK   the ring is not looked at once regardless after the old doorbell went
 *      -DNO_BOTH    while it is changed, the server hears the new doorbell only
 *      -DNO_WAKE    a server that sleeps at the old one only is not woken to hear both
 * and this one must ring a doorbell that is gone:
 *      -DNO_TAKEN   the old one goes without waiting for the drivers
 */

#ifndef NO_CHECK
#define NO_CHECK 0
#endif
#ifndef NO_BOTH
#define NO_BOTH 0
#endif
#ifndef NO_WAKE
#define NO_WAKE 0
#endif
#ifndef NO_TAKEN
#define NO_TAKEN 0
#endif

#define BELLS    4      /* generations: one change that is taken back, or two that are not */
#define THREADS  2
#define REQUESTS 1      /* of each thread */
#define NONE     BELLS

byte waiting;           /* requests published and not served */
bool armed;             /* the server asked for a kick */
byte generation;        /* what drivers are to ring; each has a doorbell of its own, or the one of an earlier */
byte bell[BELLS];       /* the doorbell of each generation */
bool rung[BELLS];
bool there[BELLS];
bool silent[BELLS];     /* it is polled: ringing does nothing, and the server looks again and again */
byte taken[THREADS];
byte first, second = NONE;      /* what the server hears */
bool notes;             /* drivers are woken by the call, and look */

proctype Driver(byte me) {
    byte left = REQUESTS, g;
    bool kick;
    do
    :: left > 0 ->
           atomic { left--; waiting++; kick = armed };
           if
           :: kick ->
                  g = generation;
                  atomic { assert(there[bell[g]]); rung[bell[g]] = !silent[bell[g]] || rung[bell[g]] };
                  taken[me] = g
           :: else
           fi
    :: left == 0 && !notes -> break
    :: atomic { notes && taken[me] != generation -> taken[me] = generation }
    od
}

#define hears(b)  (b != NONE && (rung[b] || !there[b]))
#define polls(b)  (b != NONE && silent[b])

proctype Server() {
    byte one, two;
end_idle:
    do
    :: waiting > 0 && !armed -> waiting = 0
    :: else ->
           armed = true;
           if
           :: waiting > 0 -> armed = false
           :: else ->
                  atomic { one = first; two = second };
end_asleep:
                  atomic {
                      (hears(one) || hears(two) || ((polls(one) || polls(two)) && (waiting > 0 || first != one || second != two))) ->
                      if :: one != NONE -> rung[one] = false :: else fi;
                      if :: two != NONE -> rung[two] = false :: else fi;
                      armed = false }
           fi
    od
}

#define moved  (NO_TAKEN || (taken[0] == generation && taken[1] == generation))

/* The new doorbell is heard before a driver knows it; who sleeps at the old one only is woken. */
inline begin(old, new) {
    atomic { first = (NO_BOTH -> new : old); second = (NO_BOTH -> NONE : new) };
    atomic { if :: !NO_WAKE && !NO_BOTH -> rung[old] = true :: else fi };
    atomic { bell[generation + 1] = new; generation++ }
}

inline finish(old, new) {
    atomic { first = new; second = NONE };
    atomic { there[old] = false; rung[old] = false };
    if
    :: !NO_CHECK -> rung[new] = true
    :: else
    fi
}

proctype Host() {
    byte now, next;
end_changing:
    do
    :: generation + 2 < BELLS ->
           atomic {
               next = generation + 1; there[next] = true;
               if :: silent[next] = true :: silent[next] = false fi };
           begin(now, next);
end_waiting:
           if
           :: moved -> finish(now, next); now = next
           :: !moved ->                                 /* cancelled: back to the old one, while both are heard */
                  begin(next, now);
end_returning:
                  moved -> finish(next, now)
           fi
    :: generation + 2 >= BELLS -> break
    od
}

init {
    atomic {
        there[0] = true;
        first = 0;
        if :: silent[0] = true :: silent[0] = false fi;
        if :: notes = true :: notes = false fi;
        run Driver(0); run Driver(1); run Server(); run Host()
    };
    timeout -> assert(waiting == 0)     /* nobody can move any more: no request may be left */
}
