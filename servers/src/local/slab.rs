//! Memory for many small things, with nothing to spare between them.
//!
//! An allocator gives each piece its own header, and whoever has a piece keeps a pointer and a length to it:
//! for a pair of 34 bytes that is more than the pair. Here a piece is a *slot* in a *page* of 64 KiB, and its
//! owner has a *handle* of four bytes. All slots of a page have the same size; the sizes are so close to each
//! other that little is lost.
//!
//! - Every operation takes the same time, however many slots there are. A page grows with its slots, so that
//!   a slab of a few small things is small, and nothing larger than a page is ever moved.
//! - A page without a slot in use gives its memory back at once. (Its number is kept, 40 bytes.)
//! - A handle is good until it is freed; nobody may use it afterwards. That cannot be checked here: it would
//!   name whatever is there now. But it cannot do worse either, there is nothing unsafe.
//! - What is in a slot is its owner's business. A new slot holds anything.

/// The largest slot.
pub(crate) const LARGEST: usize = 2048;

/// No handle is so large: whoever keeps handles has the highest bit for itself.
pub(crate) const HANDLES: u32 = 1 << (PAGE_BITS + SLOT_BITS);

const PAGE: usize = 64 * 1024;
const SLOT_BITS: u32 = 12;
const PAGE_BITS: u32 = 19;

/// A page begins with at least this much, and doubles as long as it is not whole.
const FIRST: usize = 512;

/// Slots have sizes in steps of 8 from here,
const SMALLEST: usize = 16;
/// and from here on eight sizes for each doubling, three times.
const FINE: usize = 256;
const FINE_CLASSES: usize = (FINE - SMALLEST) / 8 + 1;
const CLASSES: usize = FINE_CLASSES + 3 * 8;

const _: () = assert!(LARGEST == FINE << 3 && PAGE / SMALLEST <= 1 << SLOT_BITS);

/// The size of a slot for so many bytes is a multiple of this.
const fn step(len: usize) -> usize {
    if len <= FINE { 8 } else { len.next_power_of_two() / 16 }
}

/// The size of a slot for so many bytes.
fn size_for(len: usize) -> usize {
    len.next_multiple_of(step(len)).max(SMALLEST)
}

/// The number of this size.
fn class_of(size: usize) -> usize {
    if size <= FINE {
        (size - SMALLEST) / 8
    } else {
        let whole = size.next_power_of_two();
        // The eight sizes up to 512, up to 1024 and up to 2048.
        let doublings = (whole / FINE).ilog2() as usize - 1;
        FINE_CLASSES + doublings * 8 + (size - whole / 2) / (whole / 16) - 1
    }
}

/// No slot: ends the list of the free slots of a page.
const NONE: u16 = u16::MAX;

/// The slots of one owner.
pub(crate) struct Slab {
    pages: Vec<Page>,
    /// The numbers of the pages without memory.
    vacant: Vec<u32>,
    /// The numbers of the pages with a free slot, for each size.
    roomy: [Vec<u32>; CLASSES],
}

#[derive(Default)]
struct Page {
    /// The slots that were ever in use.
    bytes: Vec<u8>,
    /// Of each of its slots.
    size: u16,
    /// Slots in use.
    used: u16,
    /// The slot that was freed last. In its first bytes stands the one before.
    free: u16,
    /// Where it is among those with a free slot, if it has one.
    place: u32,
}

impl Default for Slab {
    fn default() -> Self {
        Self { pages: Vec::new(), vacant: Vec::new(), roomy: [const { Vec::new() }; CLASSES] }
    }
}

impl Slab {
    /// A slot for so many bytes, [`LARGEST`] at most. `None`: there are no more handles.
    pub(crate) fn allocate(&mut self, len: usize) -> Option<u32> {
        let size = size_for(len);
        let class = class_of(size);
        let number = match self.roomy[class].last() {
            Some(number) => *number,
            None => self.add_page(size)?,
        };
        let page = &mut self.pages[number as usize];
        let slot = page.take();
        if page.is_full() {
            self.is_no_longer_roomy(number);
        }
        Some((number << SLOT_BITS) | u32::from(slot))
    }

    /// Gives a slot back.
    pub(crate) fn free(&mut self, handle: u32) {
        let number = handle >> SLOT_BITS;
        let page = &mut self.pages[number as usize];
        let was_full = page.is_full();
        page.give(slot_of(handle));
        if page.used == 0 {
            // It has several slots, so it was not full.
            self.is_no_longer_roomy(number);
            self.pages[number as usize].bytes = Vec::new();
            self.vacant.push(number);
        } else if was_full {
            self.is_roomy(number);
        }
    }

    /// Whether the slot has just the size that a slot for so many bytes would have.
    pub(crate) fn suits(&self, handle: u32, len: usize) -> bool {
        usize::from(self.pages[(handle >> SLOT_BITS) as usize].size) == size_for(len)
    }

    /// How many pages can still be had.
    pub(crate) fn free_pages(&self) -> usize {
        (1 << PAGE_BITS) - self.pages.len() + self.vacant.len()
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
        let page = Page { size: size as u16, free: NONE, ..Page::default() };
        let number = match self.vacant.pop() {
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
        self.is_roomy(number);
        Some(number)
    }

    fn is_roomy(&mut self, number: u32) {
        let page = &mut self.pages[number as usize];
        let roomy = &mut self.roomy[class_of(page.size.into())];
        page.place = roomy.len() as u32;
        roomy.push(number);
    }

    fn is_no_longer_roomy(&mut self, number: u32) {
        let page = &self.pages[number as usize];
        let place = page.place;
        let roomy = &mut self.roomy[class_of(page.size.into())];
        roomy.swap_remove(place as usize);
        if let Some(moved) = roomy.get(place as usize) {
            self.pages[*moved as usize].place = place;
        }
    }
}

impl Page {
    fn take(&mut self) -> u16 {
        self.used += 1;
        if self.free != NONE {
            let slot = self.free;
            let (start, _) = self.span(slot);
            self.free = u16::from_le_bytes([self.bytes[start], self.bytes[start + 1]]);
            return slot;
        }
        let (size, len) = (usize::from(self.size), self.bytes.len());
        if len == self.bytes.capacity() {
            let whole = self.slots() * size;
            let more = len.max(FIRST.next_multiple_of(size));
            self.bytes.reserve_exact(more.min(whole - len));
        }
        self.bytes.resize(len + size, 0);
        (len / size) as u16
    }

    fn give(&mut self, slot: u16) {
        self.used -= 1;
        let (start, _) = self.span(slot);
        self.bytes[start..start + 2].copy_from_slice(&self.free.to_le_bytes());
        self.free = slot;
    }

    /// Where a slot begins, and how long it is.
    fn span(&self, slot: u16) -> (usize, usize) {
        let size = usize::from(self.size);
        (usize::from(slot) * size, size)
    }

    /// How many slots it has when it is whole.
    fn slots(&self) -> usize {
        PAGE / usize::from(self.size)
    }

    fn is_full(&self) -> bool {
        usize::from(self.used) == self.slots()
    }
}

fn slot_of(handle: u32) -> u16 {
    (handle & ((1 << SLOT_BITS) - 1)) as u16
}

#[cfg(test)]
impl Slab {
    /// How much memory its pages have.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.iter().map(|page| page.bytes.capacity()).sum()
    }

    /// Lets it have no more pages than it has.
    pub(crate) fn end_here(&mut self) {
        self.pages.resize_with(1 << PAGE_BITS, Page::default);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_length_has_a_slot_that_is_hardly_longer() {
        let mut sizes: Vec<_> = (0..=LARGEST).map(size_for).collect();
        assert!(sizes.is_sorted());
        sizes.dedup();
        assert_eq!(sizes.len(), CLASSES);
        for (class, size) in sizes.iter().enumerate() {
            assert_eq!(class_of(*size), class, "of {size}");
        }
        for len in 0..=LARGEST {
            let lost = size_for(len) - len;
            assert!(lost < 8 || lost * 8 < len || len < SMALLEST, "{lost} for {len}");
        }
    }

    #[test]
    fn slots_of_every_size_keep_what_is_written_to_them() {
        let mut slab = Slab::default();
        let handles: Vec<_> = (0..=LARGEST)
            .map(|len| {
                let handle = slab.allocate(len).unwrap();
                assert!(slab.suits(handle, len) && handle < HANDLES);
                slab.slot_mut(handle).fill(len as u8);
                handle
            })
            .collect();
        for (len, handle) in handles.iter().enumerate() {
            let slot = slab.slot(*handle);
            assert!(slot.len() >= len && slot.iter().all(|byte| *byte == len as u8), "of {len}");
            slab.free(*handle);
        }
        assert_eq!(slab.bytes(), 0);
    }

    #[test]
    fn a_page_gives_its_memory_back_and_its_number_is_used_again() {
        let mut slab = Slab::default();
        let slots = PAGE / 48;
        let handles: Vec<_> = (0..slots * 3).map(|_| slab.allocate(48).unwrap()).collect();
        let whole = slots * 48;
        assert_eq!((slab.pages.len(), slab.bytes()), (3, whole * 3));
        for handle in &handles[slots..slots * 2] {
            slab.free(*handle);
        }
        assert_eq!(slab.bytes(), whole * 2);
        // Also for another size.
        let handle = slab.allocate(100).unwrap();
        assert_eq!((slab.pages.len(), handle >> SLOT_BITS), (3, 1));
        assert!(slab.bytes() <= whole * 2 + FIRST + 104, "a page begins small");
    }

    #[test]
    fn it_ends_where_the_handles_do() {
        let mut slab = Slab::default();
        slab.pages.resize_with((1 << PAGE_BITS) - 1, Page::default);
        let slots = PAGE / LARGEST;
        let handles: Vec<_> = (0..slots).map(|_| slab.allocate(LARGEST).unwrap()).collect();
        assert!(handles.iter().all(|handle| *handle < HANDLES));
        assert_eq!(slab.allocate(LARGEST), None);
        slab.free(handles[7]);
        assert_eq!(slab.allocate(LARGEST), Some(handles[7]));
    }

    proptest! {
        #[test]
        fn slots_in_use_are_different_and_freed_ones_are_used_again(
            steps in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, 0u8..10), 0..3000)
        ) {
            // Two sizes whose pages are soon full, two of neighbours.
            let lens = [2048, 1930, 20, 33];
            let mut slab = Slab::default();
            let mut model: Vec<(u32, usize, u8)> = Vec::new();
            let mut most = [0; 4];
            for (number, (index, which, kind)) in steps.into_iter().enumerate() {
                // Now it grows, now it shrinks.
                if kind < if number % 1000 < 500 { 8 } else { 2 } {
                    let handle = slab.allocate(lens[which]).unwrap();
                    prop_assert!(model.iter().all(|(other, ..)| *other != handle));
                    slab.slot_mut(handle).fill(number as u8);
                    model.push((handle, which, number as u8));
                    let now = model.iter().filter(|(_, other, _)| *other == which).count();
                    most[which] = now.max(most[which]);
                } else if !model.is_empty() {
                    let (handle, which, content) = model.swap_remove(index.index(model.len()));
                    let slot = slab.slot(handle);
                    prop_assert_eq!(slot.len(), size_for(lens[which]));
                    prop_assert!(slot.iter().all(|byte| *byte == content));
                    slab.free(handle);
                }
            }
            for (handle, _, content) in &model {
                prop_assert!(slab.slot(*handle).iter().all(|byte| byte == content));
            }
            // No more pages than for the most that there ever were at once.
            let pages = |which: usize| most[which].div_ceil(PAGE / size_for(lens[which]));
            prop_assert!(slab.pages.len() <= (0..4).map(pages).sum());
            for (handle, ..) in model {
                slab.free(handle);
            }
            prop_assert_eq!(slab.bytes(), 0);
            prop_assert!(slab.roomy.iter().all(Vec::is_empty));
        }
    }
}
