//! Memory for many small things, with nothing to spare between them.
//!
//! An allocator gives each piece its own header, and whoever has a piece keeps a pointer and a length to it:
//! for a pair of 34 bytes that is more than the pair. Here a piece is a *slot* in a *page* of 64 KiB, and its
//! owner has a *handle* of four bytes. All slots of a page have the same size; the sizes are so close to each
//! other that little is lost.
//!
//! - Every operation takes the same time, however many slots there are. A page grows and shrinks with its slots,
//!   so that a slots of a few small things is small, and nothing larger than a page is ever moved at once.
//! - The slots of a size lie close together: where one is freed, the last one of its size is moved. So all pages
//!   of a size are full but the last, and what is kept is never much more than what is in use, whatever was
//!   there before. A page without a slot gives its memory back at once. (Its number is kept, 32 bytes.)
//! - A handle is good until it is freed or its slot is moved, which [`Slots::free`] reports; nobody may use it
//!   afterwards. That cannot be checked here: it would name whatever is there now. But it cannot do worse
//!   either, there is nothing unsafe.
//! - What is in a slot is its owner's business. A new slot holds anything.

use std::mem;

/// The largest slot.
pub(crate) const MAX_SLOT: usize = 2048;

/// No handle is so large: whoever keeps handles has the highest bit for itself.
pub(crate) const HANDLE_LIMIT: u32 = 1 << (PAGE_BITS + SLOT_BITS);

const PAGE_SIZE: usize = 64 * 1024;
const SLOT_BITS: u32 = 12;
const PAGE_BITS: u32 = 19;

/// A page begins with at least this much, and doubles as long as it is not whole.
const MIN_PAGE_CAPACITY: usize = 512;

/// Slots have sizes in steps of 8 from here,
const MIN_SLOT: usize = 16;
/// and from here on eight sizes for each doubling, three times.
const MAX_FINE_SLOT: usize = 256;
const FINE_CLASSES: usize = (MAX_FINE_SLOT - MIN_SLOT) / 8 + 1;
const CLASSES: usize = FINE_CLASSES + 3 * 8;

const _: () = assert!(MAX_SLOT == MAX_FINE_SLOT << 3 && PAGE_SIZE / MIN_SLOT <= 1 << SLOT_BITS);

/// The size of a slot for so many bytes is a multiple of this.
const fn step(len: usize) -> usize {
    if len <= MAX_FINE_SLOT { 8 } else { len.next_power_of_two() / 16 }
}

/// The size of a slot for so many bytes.
fn size_for(len: usize) -> usize {
    len.next_multiple_of(step(len)).max(MIN_SLOT)
}

/// The number of this size.
fn class_of(size: usize) -> usize {
    if size <= MAX_FINE_SLOT {
        (size - MIN_SLOT) / 8
    } else {
        let whole = size.next_power_of_two();
        // The eight sizes up to 512, up to 1024 and up to 2048.
        let doublings = (whole / MAX_FINE_SLOT).ilog2() as usize - 1;
        FINE_CLASSES + doublings * 8 + (size - whole / 2) / (whole / 16) - 1
    }
}

/// The slots of one owner.
pub(crate) struct Slots {
    pages: Vec<Page>,
    /// The numbers of the pages without memory.
    free_pages: Vec<u32>,
    /// The numbers of the pages of each size. All are full but the last, which is not empty.
    classes: [Vec<u32>; CLASSES],
}

#[derive(Default)]
struct Page {
    /// Its slots; all of them are in use.
    bytes: Vec<u8>,
    /// Of each of its slots.
    size: u16,
}

/// What was in one slot is in another now.
#[must_use = "whoever keeps the handle must correct it"]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    /// The handle that it had. There is nothing any more.
    pub(crate) from: u32,
    /// The handle that it has.
    pub(crate) to: u32,
}

impl Default for Slots {
    fn default() -> Self {
        Self { pages: Vec::new(), free_pages: Vec::new(), classes: [const { Vec::new() }; CLASSES] }
    }
}

impl Slots {
    /// A slot for so many bytes, [`MAX_SLOT`] at most. `None`: there are no more handles.
    pub(crate) fn allocate(&mut self, len: usize) -> Option<u32> {
        let size = size_for(len);
        let last = self.classes[class_of(size)].last().copied();
        let number = match last.filter(|number| !self.pages[*number as usize].is_full()) {
            Some(number) => number,
            None => self.add_page(size)?,
        };
        Some(handle_of(number, self.pages[number as usize].push()))
    }

    /// Gives a slot back. Another one of its size may come to its place, and to its handle.
    pub(crate) fn free(&mut self, handle: u32) -> Option<Moved> {
        let size = self.pages[(handle >> SLOT_BITS) as usize].size.into();
        let class = &mut self.classes[class_of(size)];
        let number = *class.last().expect("the page of a handle is one of its size");
        let page = &mut self.pages[number as usize];
        let from = handle_of(number, page.last_slot());
        let mut bytes = mem::take(&mut page.bytes);
        let start = bytes.len() - size;
        let hole = usize::from(slot_of(handle)) * size;
        if handle >> SLOT_BITS == number {
            bytes.copy_within(start.., hole);
        } else {
            let other = &mut self.pages[(handle >> SLOT_BITS) as usize].bytes;
            other[hole..hole + size].copy_from_slice(&bytes[start..]);
        }
        bytes.truncate(start);
        if bytes.is_empty() {
            class.pop();
            self.free_pages.push(number);
        } else {
            // Not before it is much too large, so that not every few steps bring another move.
            if bytes.capacity() > MIN_PAGE_CAPACITY * 2 && start <= bytes.capacity() / 4 {
                bytes.shrink_to(start * 2);
            }
            self.pages[number as usize].bytes = bytes;
        }
        (handle != from).then_some(Moved { from, to: handle })
    }

    /// Whether the slot has just the size that a slot for so many bytes would have.
    pub(crate) fn fits_in_place(&self, handle: u32, len: usize) -> bool {
        usize::from(self.pages[(handle >> SLOT_BITS) as usize].size) == size_for(len)
    }

    /// Whether [`allocate`](Self::allocate) would succeed.
    pub(crate) fn can_allocate(&self, len: usize) -> bool {
        let last = self.classes[class_of(size_for(len))].last();
        last.is_some_and(|number| !self.pages[*number as usize].is_full())
            || self.available_pages() > 0
    }

    /// How many pages can still be had.
    pub(crate) fn available_pages(&self) -> usize {
        (1 << PAGE_BITS) - self.pages.len() + self.free_pages.len()
    }

    /// The bytes of a slot: as many as were asked for, or a few more.
    pub(crate) fn slot(&self, handle: u32) -> &[u8] {
        let page = &self.pages[(handle >> SLOT_BITS) as usize];
        let (start, size) = page.span(slot_of(handle));
        &page.bytes[start..start + size]
    }

    /// The same, to write them.
    pub(crate) fn slot_mut(&mut self, handle: u32) -> &mut [u8] {
        let page = &mut self.pages[(handle >> SLOT_BITS) as usize];
        let (start, size) = page.span(slot_of(handle));
        &mut page.bytes[start..start + size]
    }

    fn add_page(&mut self, size: usize) -> Option<u32> {
        let page = Page { bytes: Vec::new(), size: size as u16 };
        let number = match self.free_pages.pop() {
            Some(number) => {
                self.pages[number as usize] = page;
                number
            }
            None if self.pages.len() < 1 << PAGE_BITS => {
                self.pages.push(page);
                self.pages.len() as u32 - 1
            }
            None => return None,
        };
        self.classes[class_of(size)].push(number);
        Some(number)
    }
}

impl Page {
    /// Adds a slot behind the others.
    fn push(&mut self) -> u16 {
        let (size, len) = (usize::from(self.size), self.bytes.len());
        if len + size > self.bytes.capacity() {
            let whole = self.capacity() * size;
            let more = len.max(MIN_PAGE_CAPACITY.next_multiple_of(size));
            self.bytes.reserve_exact(more.min(whole - len));
        }
        self.bytes.resize(len + size, 0);
        self.last_slot()
    }

    /// Where a slot begins, and how long it is.
    fn span(&self, slot: u16) -> (usize, usize) {
        let size = usize::from(self.size);
        (usize::from(slot) * size, size)
    }

    /// How many slots it has when it is whole.
    fn capacity(&self) -> usize {
        PAGE_SIZE / usize::from(self.size)
    }

    /// The last one that it has; it must have one.
    fn last_slot(&self) -> u16 {
        (self.bytes.len() / usize::from(self.size) - 1) as u16
    }

    fn is_full(&self) -> bool {
        self.bytes.len() / usize::from(self.size) == self.capacity()
    }
}

fn handle_of(page: u32, slot: u16) -> u32 {
    (page << SLOT_BITS) | u32::from(slot)
}

fn slot_of(handle: u32) -> u16 {
    (handle & ((1 << SLOT_BITS) - 1)) as u16
}

#[cfg(test)]
impl Slots {
    /// How much memory its pages have.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.iter().map(|page| page.bytes.capacity()).sum()
    }

    /// Lets it have no more pages than it has.
    pub(crate) fn exhaust(&mut self) {
        self.pages.resize_with(1 << PAGE_BITS, Page::default);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What the head of this module says, with so many slots in use.
    fn check(slots: &Slots, expected: usize) {
        let (mut in_use, mut bytes, mut pages) = (0, 0, slots.free_pages.len());
        for (class, numbers) in slots.classes.iter().enumerate() {
            for (at, number) in numbers.iter().enumerate() {
                let page = &slots.pages[*number as usize];
                assert_eq!(class_of(page.size.into()), class);
                assert!(if at + 1 < numbers.len() {
                    page.is_full()
                } else {
                    !page.bytes.is_empty()
                });
                in_use += page.bytes.len() / usize::from(page.size);
                bytes += page.bytes.len();
                assert!(
                    page.bytes.capacity()
                        <= PAGE_SIZE.min(page.bytes.len() * 4 + MIN_PAGE_CAPACITY * 2)
                );
            }
            pages += numbers.len();
        }
        assert_eq!((in_use, pages), (expected, slots.pages.len()));
        let used = slots.classes.iter().filter(|numbers| !numbers.is_empty()).count();
        assert!(slots.bytes() <= bytes + used * PAGE_SIZE);
    }

    /// Whoever keeps handles does this.
    fn correct(kept: &mut [(u32, usize, u8)], moved: Option<Moved>) {
        if let Some(Moved { from, to }) = moved {
            let other = kept.iter_mut().find(|(handle, ..)| *handle == from);
            other.expect("what is moved is in use").0 = to;
        }
    }

    #[test]
    fn every_length_has_a_slot_that_is_hardly_longer() {
        let mut sizes: Vec<_> = (0..=MAX_SLOT).map(size_for).collect();
        assert!(sizes.is_sorted());
        sizes.dedup();
        assert_eq!(sizes.len(), CLASSES);
        for (class, size) in sizes.iter().enumerate() {
            assert_eq!(class_of(*size), class, "of {size}");
        }
        for len in 0..=MAX_SLOT {
            let lost = size_for(len) - len;
            assert!(lost < 8 || lost * 8 < len || len < MIN_SLOT, "{lost} for {len}");
        }
    }

    #[test]
    fn slots_of_every_size_keep_what_is_written_to_them() {
        let mut slots = Slots::default();
        let handles: Vec<_> = (0..=MAX_SLOT)
            .map(|len| {
                let handle = slots.allocate(len).unwrap();
                assert!(slots.fits_in_place(handle, len) && handle < HANDLE_LIMIT);
                slots.slot_mut(handle).fill(len as u8);
                handle
            })
            .collect();
        for (len, handle) in handles.iter().enumerate() {
            let slot = slots.slot(*handle);
            assert!(slot.len() >= len && slot.iter().all(|byte| *byte == len as u8), "of {len}");
        }
        check(&slots, handles.len());
        // The last one of its size each time, so that none is moved.
        for (left, handle) in handles.into_iter().enumerate().rev() {
            assert_eq!(slots.free(handle), None);
            check(&slots, left);
        }
        assert_eq!(slots.bytes(), 0);
    }

    #[test]
    fn the_last_slot_of_a_size_comes_to_the_place_of_the_freed_one() {
        let mut slots = Slots::default();
        let per_page = PAGE_SIZE / 48;
        let handles: Vec<_> = (0..per_page + 2).map(|_| slots.allocate(48).unwrap()).collect();
        let (first, other) = (handles[0], slots.allocate(100).unwrap());
        slots.slot_mut(other).fill(9);
        for (number, handle) in handles.iter().enumerate() {
            slots.slot_mut(*handle).fill(number as u8);
        }
        // From one page to the other, and then within a page.
        for last in [per_page + 1, per_page, per_page - 1] {
            assert_eq!(slots.free(first), Some(Moved { from: handles[last], to: first }));
            assert!(slots.slot(first).iter().all(|byte| *byte == last as u8));
            check(&slots, last + 1);
        }
        assert!(slots.slot(other).iter().all(|byte| *byte == 9));
        assert_eq!(slots.free(handles[per_page - 2]), None);
    }

    #[test]
    fn a_page_gives_its_memory_back_and_its_number_is_used_again() {
        let mut slots = Slots::default();
        let per_page = PAGE_SIZE / 48;
        let handles: Vec<_> = (0..per_page * 3).map(|_| slots.allocate(48).unwrap()).collect();
        let whole = per_page * 48;
        assert_eq!((slots.pages.len(), slots.bytes()), (3, whole * 3));
        // Those of the last page come to the places of the second one's.
        for (handle, last) in
            handles[per_page..per_page * 2].iter().zip(handles[per_page * 2..].iter().rev())
        {
            assert_eq!(slots.free(*handle), Some(Moved { from: *last, to: *handle }));
        }
        assert_eq!(slots.bytes(), whole * 2);
        // Also for another size.
        let handle = slots.allocate(100).unwrap();
        assert_eq!((slots.pages.len(), handle >> SLOT_BITS), (3, 2));
        assert!(slots.bytes() <= whole * 2 + MIN_PAGE_CAPACITY + 104, "a page begins small");
    }

    #[test]
    fn who_frees_most_of_many_sizes_keeps_little() {
        let mut slots = Slots::default();
        let sizes: BTreeSet<_> = (0..=MAX_SLOT).map(size_for).collect();
        let mut in_use = 0;
        for size in &sizes {
            // Three pages of it, of which one slot in a hundred stays.
            let many = PAGE_SIZE / size * 3;
            let handles: Vec<_> = (0..many).map(|_| slots.allocate(*size).unwrap()).collect();
            let kept = many.div_ceil(100);
            // The first one is freed again and again: it is another one each time.
            for last in handles[kept..].iter().rev() {
                assert_eq!(slots.free(handles[0]), Some(Moved { from: *last, to: handles[0] }));
            }
            in_use += kept * size;
        }
        check(&slots, sizes.iter().map(|size| (PAGE_SIZE / size * 3).div_ceil(100)).sum());
        let bytes = slots.bytes();
        assert!(
            bytes >= in_use && bytes <= in_use * 4 + CLASSES * MIN_PAGE_CAPACITY * 5,
            "{bytes} for {in_use}"
        );
    }

    #[test]
    fn it_ends_where_the_handles_do() {
        let mut slots = Slots::default();
        slots.pages.resize_with((1 << PAGE_BITS) - 1, Page::default);
        let per_page = PAGE_SIZE / MAX_SLOT;
        let handles: Vec<_> = (0..per_page).map(|_| slots.allocate(MAX_SLOT).unwrap()).collect();
        assert!(handles.iter().all(|handle| *handle < HANDLE_LIMIT));
        assert_eq!(slots.allocate(MAX_SLOT), None);
        let last = handles[per_page - 1];
        assert_eq!(slots.free(handles[7]), Some(Moved { from: last, to: handles[7] }));
        assert_eq!(slots.allocate(MAX_SLOT), Some(last));
    }

    proptest! {
        #[test]
        fn slots_in_use_are_different_keep_their_content_and_lie_close_together(
            steps in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, 0u8..10), 0..3000)
        ) {
            // Two sizes whose pages are soon full, two of neighbours.
            let lens = [2048, 1900, 20, 33];
            let mut slots = Slots::default();
            let mut model: Vec<(u32, usize, u8)> = Vec::new();
            let mut most = 0;
            for (number, (index, which, kind)) in steps.into_iter().enumerate() {
                // Now it grows, now it shrinks.
                if kind < if number % 1000 < 500 { 8 } else { 2 } {
                    let handle = slots.allocate(lens[which]).unwrap();
                    prop_assert!(model.iter().all(|(other, ..)| *other != handle));
                    slots.slot_mut(handle).fill(number as u8);
                    model.push((handle, which, number as u8));
                } else if !model.is_empty() {
                    let (handle, which, content) = model.swap_remove(index.index(model.len()));
                    let slot = slots.slot(handle);
                    prop_assert_eq!(slot.len(), size_for(lens[which]));
                    prop_assert!(slot.iter().all(|byte| *byte == content));
                    let moved = slots.free(handle);
                    correct(&mut model, moved);
                }
                check(&slots, model.len());
                let mut in_use = [0; 4];
                model.iter().for_each(|(_, which, _)| in_use[*which] += 1);
                let pages = |which: usize| usize::div_ceil(in_use[which], PAGE_SIZE / size_for(lens[which]));
                let pages: usize = (0..4).map(pages).sum();
                prop_assert_eq!(slots.pages.len() - slots.free_pages.len(), pages);
                // No more numbers of pages than for the most that there ever were at once.
                most = pages.max(most);
                prop_assert_eq!(slots.pages.len(), most);
            }
            for (handle, _, content) in &model {
                prop_assert!(slots.slot(*handle).iter().all(|byte| byte == content));
            }
            while let Some((handle, ..)) = model.pop() {
                let moved = slots.free(handle);
                correct(&mut model, moved);
            }
            check(&slots, 0);
            prop_assert_eq!(slots.bytes(), 0);
        }
    }
}
