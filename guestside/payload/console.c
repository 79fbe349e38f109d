/* SPDX-License-Identifier: Apache-2.0 */
/* Words on the console, a byte a store. */
#include "payload.h"

#define DIGITS 20 /* of the largest number of 64 bits */

void pv_put(const struct pv_guest *g, const char *text)
{
    while (*text)
        pv_mmio_write8(g->boot->console, (uint8_t)*text++);
}

void pv_put_word(const struct pv_guest *g, const char *name, const char *word)
{
    pv_put(g, name);
    pv_put(g, "=");
    pv_put(g, word);
    pv_put(g, " ");
}

void pv_put_number(const struct pv_guest *g, const char *name, uint64_t value)
{
    char text[DIGITS + 1];
    char *at = text + DIGITS;

    *at = '\0';
    do {
        *--at = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    pv_put_word(g, name, at);
}
