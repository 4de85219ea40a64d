// cplusplus.cpp - both headers in C++17, and a lambda as the callback.
//
//     cplusplus GROUP SECRET

#include <chrono>
#include <cstdlib>
#include <future>
#include <iostream>
#include <memory>
#include <string>

#include "KVS-lib.h"
#include "kvs.h"

namespace {

std::promise<std::string> changed;

int failed(const char *function, int code)
{
    std::cerr << function << ": " << kvs_strerror(code) << '\n';
    return EXIT_FAILURE;
}

} // namespace

int main(int argc, char *argv[])
{
    static_assert(KVS_MAX_TEXT == 99, "the limit of the protocol");
    if (argc != 3)
        return 2;

    const std::string key = "c++", value(KVS_MAX_TEXT, 'v');
    if (int code = establish_connection(argv[1], argv[2]); code < 0)
        return failed("establish_connection", code);
    if (int code = put_value(key.c_str(), "before"); code < 0)
        return failed("put_value", code);

    auto on_change = [](char *changed_key) { changed.set_value(changed_key); };
    if (int code = register_callback(key.c_str(), on_change); code < 0)
        return failed("register_callback", code);
    if (int code = put_value(key.c_str(), value.c_str()); code < 0)
        return failed("put_value", code);
    auto change = changed.get_future();
    if (change.wait_for(std::chrono::seconds(15)) != std::future_status::ready) {
        std::cerr << "no callback\n";
        return EXIT_FAILURE;
    }
    if (change.get() != key) {
        std::cerr << "a callback for another key\n";
        return EXIT_FAILURE;
    }

    char *answer = nullptr;
    if (int code = get_value(key.c_str(), &answer); code < 0)
        return failed("get_value", code);
    const std::unique_ptr<char, decltype(&std::free)> owned(answer, &std::free);
    if (owned.get() != value) {
        std::cerr << "another value came back\n";
        return EXIT_FAILURE;
    }

    if (int code = delete_value(key.c_str()); code < 0)
        return failed("delete_value", code);
    if (int code = close_connection(); code < 0)
        return failed("close_connection", code);
    std::cout << "libkvs " << kvs_version() << '\n';
    return EXIT_SUCCESS;
}
