//! Slots: memory for many small records, densely packed.
//!
//! A general-purpose allocator adds a header to each allocation, and its user keeps a pointer and a
//! length: for a record of 34 bytes this overhead exceeds the record. Here a record occupies a
//! *slot* in a *page* of 64 KiB, identified by a *handle* of four bytes. All slots of a page belong
//! to one *size class*. The classes are close to each other, so a slot wastes less than 8 bytes or
//! an eighth of the record.
//!
//! - Every operation takes constant time. A page grows and shrinks with its slots, so a few small
//!   records take little memory, and nothing larger than a page is ever moved at once.
//! - Each size class is compact: when a slot is freed, the last slot of its class moves there. So
//!   only the last page of a class is partly filled, and the memory in use stays close to that of
//!   the records. An empty page releases its memory at once; its 32-byte entry stays for reuse.
//! - A handle is valid until it is freed or its slot is moved, which [`Slots::free`] reports. A
//!   stale handle is not detected: it reads or writes another record, but never invalid memory.
//! - The content of a new slot is unspecified.

use std::mem;

/// The size of the largest slot.
pub(crate) const MAX_SLOT: usize = 2048;

/// Handles are less than this, so the highest bit is free for the owner of a handle.
pub(crate) const HANDLE_LIMIT: u32 = 1 << (PAGE_BITS + SLOT_BITS);

const PAGE_SIZE: usize = 64 * 1024;
const SLOT_BITS: u32 = 12;
const PAGE_BITS: u32 = 19;

/// The least capacity of a page. It doubles until the page has its full size.
const MIN_PAGE_CAPACITY: usize = 512;

/// The size of the smallest slot. Up to [`MAX_FINE_SLOT`], size classes are multiples of 8.
const MIN_SLOT: usize = 16;
/// Above this size there are eight size classes for each doubling, up to [`MAX_SLOT`].
const MAX_FINE_SLOT: usize = 256;
const FINE_CLASSES: usize = (MAX_FINE_SLOT - MIN_SLOT) / 8 + 1;
const CLASSES: usize = FINE_CLASSES + 3 * 8;

const _: () = assert!(MAX_SLOT == MAX_FINE_SLOT << 3 && PAGE_SIZE / MIN_SLOT <= 1 << SLOT_BITS);

/// The granularity of the size classes around `len` bytes.
#[inline]
const fn step(len: usize) -> usize {
    if len <= MAX_FINE_SLOT { 8 } else { len.next_power_of_two() / 16 }
}

/// The size of a slot that holds `len` bytes.
#[inline]
fn size_for(len: usize) -> usize {
    len.next_multiple_of(step(len)).max(MIN_SLOT)
}

/// The index of the size class of slots of this size.
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

/// The slots of one table.
pub(crate) struct Slots {
    pages: Vec<Page>,
    /// The numbers of the empty pages.
    free_pages: Vec<u32>,
    /// The numbers of the pages of each size class. All but the last are full, and none is empty.
    classes: [Vec<u32>; CLASSES],
}

#[derive(Default)]
struct Page {
    /// The contents of the slots, all of which are in use.
    bytes: Vec<u8>,
    /// The size of a slot.
    size: u16,
}

/// A slot that was moved.
#[must_use = "the owner of the handle must correct it"]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    /// The previous handle, which is no longer valid.
    pub(crate) from: u32,
    /// The new handle.
    pub(crate) to: u32,
}

impl Default for Slots {
    fn default() -> Self {
        Self { pages: Vec::new(), free_pages: Vec::new(), classes: [const { Vec::new() }; CLASSES] }
    }
}

impl Slots {
    /// Allocates a slot for `len` bytes, at most [`MAX_SLOT`]. Returns `None` when all handles are
    /// in use.
    pub(crate) fn allocate(&mut self, len: usize) -> Option<u32> {
        let size = size_for(len);
        let last = self.classes[class_of(size)].last().copied();
        let number = match last.filter(|number| !self.pages[*number as usize].is_full()) {
            Some(number) => number,
            None => self.add_page(size)?,
        };
        Some(handle_of(number, self.pages[number as usize].push()))
    }

    /// Frees a slot. Another slot of its size class may move there and take over its handle.
    pub(crate) fn free(&mut self, handle: u32) -> Option<Moved> {
        let size = self.pages[(handle >> SLOT_BITS) as usize].size.into();
        let class = &mut self.classes[class_of(size)];
        let number = *class.last().expect("the size class of a valid handle has a page");
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
            // The page shrinks at a quarter of its capacity, so that it does not grow again soon.
            if bytes.capacity() > MIN_PAGE_CAPACITY * 2 && start <= bytes.capacity() / 4 {
                bytes.shrink_to(start * 2);
            }
            self.pages[number as usize].bytes = bytes;
        }
        (handle != from).then_some(Moved { from, to: handle })
    }

    /// Whether the slot is in the size class of a record of `len` bytes.
    #[inline]
    pub(crate) fn fits_in_place(&self, handle: u32, len: usize) -> bool {
        usize::from(self.pages[(handle >> SLOT_BITS) as usize].size) == size_for(len)
    }

    /// Whether [`allocate`](Self::allocate) would succeed.
    pub(crate) fn can_allocate(&self, len: usize) -> bool {
        let last = self.classes[class_of(size_for(len))].last();
        last.is_some_and(|number| !self.pages[*number as usize].is_full())
            || self.available_pages() > 0
    }

    /// The number of pages that can still be allocated.
    #[inline]
    pub(crate) fn available_pages(&self) -> usize {
        (1 << PAGE_BITS) - self.pages.len() + self.free_pages.len()
    }

    /// The bytes of a slot: at least as many as were requested.
    #[inline]
    pub(crate) fn slot(&self, handle: u32) -> &[u8] {
        let page = &self.pages[(handle >> SLOT_BITS) as usize];
        let (start, size) = page.span(slot_of(handle));
        &page.bytes[start..start + size]
    }

    /// The bytes of a slot, for writing.
    #[inline]
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
    /// Adds a slot at the end.
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

    /// The offset and the size of a slot.
    #[inline]
    fn span(&self, slot: u16) -> (usize, usize) {
        let size = usize::from(self.size);
        (usize::from(slot) * size, size)
    }

    /// The number of slots of a full page.
    fn capacity(&self) -> usize {
        PAGE_SIZE / usize::from(self.size)
    }

    /// The index of the last slot. The page must not be empty.
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
    /// The capacity of all pages.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.iter().map(|page| page.bytes.capacity()).sum()
    }

    /// Uses up all page numbers.
    pub(crate) fn exhaust(&mut self) {
        self.pages.resize_with(1 << PAGE_BITS, Page::default);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Checks the invariants in the module head; `expected` slots are in use.
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

    /// Corrects handles, as their owner has to.
    fn correct(kept: &mut [(u32, usize, u8)], moved: Option<Moved>) {
        if let Some(Moved { from, to }) = moved {
            let other = kept.iter_mut().find(|(handle, ..)| *handle == from);
            other.expect("a moved slot is in use").0 = to;
        }
    }

    #[test]
    fn slot_wastes_less_than_8_bytes_or_an_eighth() {
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
    fn slots_of_every_size_keep_their_content() {
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
        // Each freed slot is the last of its class, so none is moved.
        for (left, handle) in handles.into_iter().enumerate().rev() {
            assert_eq!(slots.free(handle), None);
            check(&slots, left);
        }
        assert_eq!(slots.bytes(), 0);
    }

    #[test]
    fn last_slot_of_a_class_replaces_the_freed_one() {
        let mut slots = Slots::default();
        let per_page = PAGE_SIZE / 48;
        let handles: Vec<_> = (0..per_page + 2).map(|_| slots.allocate(48).unwrap()).collect();
        let (first, other) = (handles[0], slots.allocate(100).unwrap());
        slots.slot_mut(other).fill(9);
        for (number, handle) in handles.iter().enumerate() {
            slots.slot_mut(*handle).fill(number as u8);
        }
        // The last slot moves from the second page to the first, then within the first.
        for last in [per_page + 1, per_page, per_page - 1] {
            assert_eq!(slots.free(first), Some(Moved { from: handles[last], to: first }));
            assert!(slots.slot(first).iter().all(|byte| *byte == last as u8));
            check(&slots, last + 1);
        }
        assert!(slots.slot(other).iter().all(|byte| *byte == 9));
        assert_eq!(slots.free(handles[per_page - 2]), None);
    }

    #[test]
    fn empty_page_releases_its_memory_and_its_number() {
        let mut slots = Slots::default();
        let per_page = PAGE_SIZE / 48;
        let handles: Vec<_> = (0..per_page * 3).map(|_| slots.allocate(48).unwrap()).collect();
        let whole = per_page * 48;
        assert_eq!((slots.pages.len(), slots.bytes()), (3, whole * 3));
        // The slots of the last page move to the second page.
        for (handle, last) in
            handles[per_page..per_page * 2].iter().zip(handles[per_page * 2..].iter().rev())
        {
            assert_eq!(slots.free(*handle), Some(Moved { from: *last, to: *handle }));
        }
        assert_eq!(slots.bytes(), whole * 2);
        // Another size class reuses the number.
        let handle = slots.allocate(100).unwrap();
        assert_eq!((slots.pages.len(), handle >> SLOT_BITS), (3, 2));
        assert!(slots.bytes() <= whole * 2 + MIN_PAGE_CAPACITY + 104, "a new page is small");
    }

    #[test]
    fn memory_is_bounded_with_few_slots_in_every_class() {
        let mut slots = Slots::default();
        let sizes: BTreeSet<_> = (0..=MAX_SLOT).map(size_for).collect();
        let mut in_use = 0;
        for size in &sizes {
            // Fill three pages, then free all but one slot in a hundred.
            let many = PAGE_SIZE / size * 3;
            let handles: Vec<_> = (0..many).map(|_| slots.allocate(*size).unwrap()).collect();
            let kept = many.div_ceil(100);
            // The first handle stays valid: each free moves the last slot there.
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
    fn allocation_fails_when_all_handles_are_in_use() {
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
        fn slots_are_distinct_compact_and_keep_their_content(
            steps in prop::collection::vec(
                (any::<prop::sample::Index>(), 0usize..4, 0u8..10),
                0..3000,
            )
        ) {
            // Two sizes that fill a page quickly, and two sizes of neighbouring classes.
            let lens = [2048, 1900, 20, 33];
            let mut slots = Slots::default();
            let mut model: Vec<(u32, usize, u8)> = Vec::new();
            let mut most = 0;
            for (number, (index, which, kind)) in steps.into_iter().enumerate() {
                // The number of slots grows for a while, then shrinks.
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
                let per_page = |which: usize| PAGE_SIZE / size_for(lens[which]);
                let pages = |which: usize| usize::div_ceil(in_use[which], per_page(which));
                let pages: usize = (0..4).map(pages).sum();
                prop_assert_eq!(slots.pages.len() - slots.free_pages.len(), pages);
                // Page numbers are reused: there are as many as pages were ever in use at once.
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
