from dpipe.app import main

main()
