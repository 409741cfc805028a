// Victims in Rust: `victim_rs MODE` ends in one way, each in a function of its own. The table in
// catalogue.py says what each is to be called.
use std::hint::black_box;
use std::process;
use std::sync::Mutex;
use std::thread;

fn index() {
    let levels = vec![1, 2, 3];
    println!("{}", levels[black_box(7)]);
}
fn unwrap_none() {
    let price: Option<u32> = black_box(None);
    println!("{}", price.unwrap());
}
fn expect_error() {
    let value: Result<u32, String> = black_box(Err("no such symbol".to_string()));
    println!("{}", value.expect("the quote is there"));
}
fn in_thread() {
    thread::spawn(index).join().unwrap();
}
struct Second;
impl Drop for Second {
    fn drop(&mut self) {
        panic!("second");
    }
}
fn double_panic() {
    let _second = Second;
    panic!("first");
}
fn recurse(n: u64) -> u64 {
    let frame = black_box([n; 64]);
    recurse(n + 1) + frame[3]
}
fn stack_overflow() {
    println!("{}", recurse(0));
}
fn stack_overflow_thread() {
    thread::spawn(stack_overflow).join().unwrap();
}
fn allocation() {
    let block: Vec<u8> = Vec::with_capacity(black_box(1usize << 46));
    println!("{}", black_box(block).capacity());
}
fn abort() {
    process::abort();
}
fn exit_three() {
    eprintln!("error: no venue configured");
    process::exit(3);
}
fn null_pointer() {
    let pointer: *mut u32 = black_box(std::ptr::null_mut());
    unsafe { std::ptr::write_volatile(pointer, 1) };
}
fn wild_pointer() {
    let pointer: *mut u32 = black_box(0x123456789008 as *mut u32);
    unsafe { std::ptr::write_volatile(pointer, 1) };
}
fn caught_panic() {
    let _ = std::panic::catch_unwind(index);
    eprintln!("error: no venue configured");
    process::exit(4);
}
static ONE: Mutex<u32> = Mutex::new(0);
fn mutex_twice() {
    let _first = ONE.lock().unwrap();
    println!("ready");
    let _second = ONE.lock().unwrap();
}
fn busy_loop() {
    println!("ready");
    let mut n = 1u64;
    while black_box(n) != 0 {
        n = n.wrapping_mul(3) | 1;
    }
}

fn main() {
    let mode = std::env::args().nth(1).unwrap();
    match mode.as_str() {
        "index" => index(),
        "unwrap_none" => unwrap_none(),
        "expect_error" => expect_error(),
        "in_thread" => in_thread(),
        "double_panic" => double_panic(),
        "stack_overflow" => stack_overflow(),
        "stack_overflow_thread" => stack_overflow_thread(),
        "allocation" => allocation(),
        "abort" => abort(),
        "exit_three" => exit_three(),
        "null_pointer" => null_pointer(),
        "wild_pointer" => wild_pointer(),
        "caught_panic" => caught_panic(),
        "mutex_twice" => mutex_twice(),
        "busy_loop" => busy_loop(),
        _ => process::exit(96),
    }
}
