//! Known callers, in Rust.
use std::hint::black_box;

mod shop {
    use std::hint::black_box;

    pub struct Order {
        pub items: Vec<u8>,
    }

    impl Order {
        #[inline(always)]
        fn reserve(&mut self, size: usize) {
            self.items.reserve_exact(size);
            black_box(&self.items);
        }

        #[inline(never)]
        pub fn place(&mut self, size: usize) {
            self.reserve(size);
            black_box(&self.items);
        }
    }

    #[inline(never)]
    pub fn generic<T: Default + AsRef<str>>(order: &mut Order, size: usize) {
        let what = T::default();
        order.place(size);
        black_box(what.as_ref());
    }
}

fn main() {
    let size: usize = std::env::var("WANT").unwrap().parse().unwrap();
    let mut order = shop::Order { items: Vec::new() };
    let call = black_box(|order: &mut shop::Order| {
        shop::generic::<String>(order, size);
        black_box(&order.items);
    });
    call(&mut order);
    black_box(order.items.len());
}
